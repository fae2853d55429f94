"""The rows of the outbox: what is to be anchored, what was signed for it, what came of it.

Every function runs inside one transaction of the caller.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, text, update

from gateway.anchors.fees import Fees
from gateway.anchors.values import Anchor, Condition, Head, Receipt, State
from gateway.cold import reading
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.registry import outbox
from gateway.store import tables
from gateway.trace import heads
from gateway.trace.receipts import NOT_NEWS

_a = tables.anchors.c
_t = tables.anchor_transactions.c
_b = tables.anchor_backends.c


_SCAN = 50_000


@frozen
class Sent:
    """A transaction that was signed, and may have been sent."""

    hash: str
    nonce: int
    raw: bytes
    gas: int
    fees: Fees
    created_at: str


def unfinished(connection: Connection, backend: str) -> Anchor | None:
    """The anchor that is under way; there is one at most."""
    under_way = _a.state.in_((State.QUEUED, State.SENDING))
    query = select(tables.anchors).where(_a.backend == backend, under_way)
    row = connection.execute(query.limit(1)).first()
    return None if row is None else _anchor(row)


def queue(connection: Connection, backend: str, head: Head, now: str) -> Anchor:
    """Choose a head. A queued one, of which nothing has left, is superseded."""
    connection.execute(
        delete(tables.anchors).where(_a.backend == backend, _a.state == State.QUEUED)
    )
    anchor = Anchor(new_id("anc"), backend, head, State.QUEUED, now)
    connection.execute(
        insert(tables.anchors).values(
            id=anchor.id,
            backend=backend,
            log=head.log,
            origin=head.origin,
            size=head.size,
            root=head.root,
            note=head.note,
            state=State.QUEUED,
            created_at=now,
        )
    )
    return anchor


def known_root(connection: Connection, log: int, size: int) -> bytes | None:
    """The root of a head that was chosen once for an anchor, whichever."""
    query = select(_a.root).where(_a.log == log, _a.size == size).limit(1)
    return connection.execute(query).scalar()


def signed(connection: Connection, anchor: Anchor, sent: Sent) -> None:
    """Keep a transaction before it is sent; from now on the anchor is not superseded."""
    connection.execute(update(tables.anchors).where(_a.id == anchor.id).values(state=State.SENDING))
    connection.execute(
        insert(tables.anchor_transactions).values(
            hash=sent.hash,
            anchor_id=anchor.id,
            nonce=sent.nonce,
            raw=sent.raw,
            gas=sent.gas,
            max_fee=str(sent.fees.max_fee),
            tip=str(sent.fees.tip),
            created_at=sent.created_at,
        )
    )


def transactions(connection: Connection, anchor_id: str) -> list[Sent]:
    """Newest first."""
    query = select(tables.anchor_transactions).where(_t.anchor_id == anchor_id)
    ordered = query.order_by(_t.nonce.desc(), _t.created_at.desc())
    return [_sent(row) for row in connection.execute(ordered)]


def paid(connection: Connection, tx_hash: str, amount: int, now: str) -> None:
    """A receipt was seen: the money is gone, whether the transaction did its work or not."""
    connection.execute(
        update(tables.anchor_transactions)
        .where(_t.hash == tx_hash, _t.paid.is_(None))
        .values(paid=str(amount), paid_at=now)
    )


def spent(connection: Connection, backend: str, day: str) -> int:
    """Wei paid on a UTC day, ``2026-01-31``."""
    query = (
        select(_t.paid)
        .join(tables.anchors, _a.id == _t.anchor_id)
        .where(_a.backend == backend, _t.paid_at >= day, _t.paid_at < day + "U")
    )
    return sum(int(amount) for amount in connection.execute(query).scalars())


def last_signed_at(connection: Connection, backend: str) -> str | None:
    query = select(func.max(_t.created_at)).join(tables.anchors, _a.id == _t.anchor_id)
    return connection.execute(query.where(_a.backend == backend)).scalar()


def final(connection: Connection, anchor: Anchor, receipt: Receipt, now: str) -> None:
    connection.execute(
        update(tables.anchors)
        .where(_a.id == anchor.id)
        .values(
            state=State.FINAL,
            final_at=now,
            anchored_at=receipt.at,
            tx_hash=receipt.tx_hash,
            block=receipt.block,
            proof=receipt.proof,
        )
    )


def void(connection: Connection, anchor: Anchor) -> None:
    """Give an anchor up for good: its log is sealed, and nothing more is anchored of it."""
    connection.execute(update(tables.anchors).where(_a.id == anchor.id).values(state=State.VOID))


# --- how the backends stand ---


def register(
    connection: Connection, name: str, identity: Mapping[str, object], now: str
) -> Mapping[str, object] | None:
    """Note that a backend is in use; returns the identity it had before, None for a new one."""
    before = connection.execute(select(_b.identity).where(_b.name == name)).scalar()
    if before is None:
        connection.execute(
            insert(tables.anchor_backends).values(
                name=name,
                identity=dict(identity),
                enabled=True,
                condition=Condition.STARTING,
                detail="",
                since=now,
            )
        )
    else:
        connection.execute(
            update(tables.anchor_backends)
            .where(_b.name == name)
            .values(identity=dict(identity), enabled=True)
        )
    return before


def disable_all(connection: Connection) -> None:
    """At start: backends that are set up no more keep their anchors and are waited for no longer.

    Those that are register again.
    """
    connection.execute(update(tables.anchor_backends).values(enabled=False))


def last_writer(connection: Connection) -> str | None:
    """The address under which was anchored last, if any was."""
    query = select(_b.identity).order_by(_b.enabled.desc(), _b.since.desc())
    for identity in connection.execute(query).scalars():
        if identity.get("writer"):
            return str(identity["writer"])
    return None


@frozen
class OtherWriter:
    """An address beside the backend's own that anchored in the same contract, or was to follow."""

    address: str
    until: int | None
    """The block from which on the backend's own address anchors: what somebody with a key that was
    given up puts there later is nobody's. None while it has anchored nothing, or for a successor.
    """


def other_writers(connection: Connection, backend: str, origin: str) -> list[OtherWriter]:
    """Whoever else anchored the log where this backend does; none for what is no chain."""
    named = connection.execute(select(_b.name, _b.identity))
    identities = {name: identity for name, identity in named}
    own = identities.get(backend, {})
    place = (own.get("chain_id"), own.get("contract"))
    known = {_address(own, "writer"), ""}
    mine = (_a.backend == backend, _a.origin == origin, _a.state == State.FINAL)
    until = connection.execute(select(func.min(_a.block)).where(*mine)).scalar()
    found = []
    successor = _address(own, "successor")
    if successor not in known:
        known.add(successor)
        found.append(OtherWriter(successor, None))
    for identity in identities.values():
        address = _address(identity, "writer")
        if (identity.get("chain_id"), identity.get("contract")) == place and address not in known:
            known.add(address)
            found.append(OtherWriter(address, until))
    return found


def _address(identity: Mapping[str, object], name: str) -> str:
    return str(identity.get(name) or "").lower()


def condition(
    connection: Connection, name: str, now: str, condition: Condition, detail: str
) -> None:
    """How the backend stands now; every project's people are told of a change for the worse."""
    query = select(_b.condition).where(_b.name == name)
    before = connection.execute(query).scalar_one_or_none()
    connection.execute(
        update(tables.anchor_backends)
        .where(_b.name == name)
        .values(condition=condition, detail=detail, since=now)
    )
    if before is None or before == condition or condition in (Condition.OK, Condition.STARTING):
        return
    facts = {"backend": name, "condition": condition.value}
    for project_id in connection.execute(select(tables.projects.c.id)).scalars().all():
        outbox.put(connection, project_id, now, "anchor.failed", name, facts)


# --- what is pending ---


@frozen
class Grown:
    """A log with signed records that a backend does not vouch for yet: ``start`` up to ``size``."""

    log: int
    start: int
    size: int


def grown(connection: Connection, own: tuple[int, int], covered: Mapping[int, int]) -> list[Grown]:
    """``own`` is this process's log with its size, ``covered`` how much is anchored of each.

    Of other logs only what is signed can be anchored, so only that is waited for.
    """
    found = []
    for one in heads.newest(connection):
        size = own[1] if one.log == own[0] else one.size
        start = covered.get(one.log, 0)
        if size > start:
            found.append(Grown(one.log, start, size))
    return found


def first_news(connection: Connection, grown: Grown) -> str | None:
    """The time of the first record that is worth an anchor."""
    c = tables.trace.c
    between = (c.idx >= grown.start, c.idx < grown.size)
    query = select(c.ts).where(c.log == grown.log, *between, c.kind.not_in(NOT_NEWS))
    return connection.execute(query.order_by(c.idx).limit(1)).scalar()


_HOLDS = {"sqlite": "instr(body, :mark)", "postgresql": "position(:mark in body)"}
_MARK = b'"anchor":"urgent"'
"""Quotes inside of a value are escaped in JSON, so these bytes are nothing but the field."""


def first_urgent(connection: Connection, log: int, start: int) -> tuple[str | None, int]:
    """The time of the first urgent record from an index on, and where to look on the next time."""
    end = start + _SCAN
    urgent = text(
        "SELECT idx, ts FROM trace WHERE log = :log AND idx >= :start AND idx < :end"
        f" AND {_HOLDS[connection.dialect.name]} > 0 ORDER BY idx LIMIT 1"
    ).bindparams(mark=_MARK, log=log, start=start, end=end)
    row = connection.execute(urgent).first()
    if row is not None:
        return row.ts, row.idx
    c = tables.trace.c
    last = connection.execute(
        select(func.max(c.idx)).where(c.log == log, c.idx >= start, c.idx < end)
    ).scalar()
    # Nothing urgent is in cold storage: it was attested before it went there.
    return None, max(start, reading.size(connection, log)) if last is None else last + 1


def _anchor(row: Row[Any]) -> Anchor:
    head = Head(row.log, row.origin, row.size, row.root, row.note)
    return Anchor(row.id, row.backend, head, State(row.state), row.created_at)


def _sent(row: Row[Any]) -> Sent:
    fees = Fees(int(row.max_fee), int(row.tip))
    return Sent(row.hash, row.nonce, row.raw, row.gas, fees, row.created_at)
