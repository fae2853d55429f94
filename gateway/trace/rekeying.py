"""The log goes on under another key: in one transaction, recorded and signed by both.

See `gateway.trace.key_chain` for what an auditor makes of it.
"""

from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, func, insert, select, update

from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.store import tables
from gateway.trace import note
from gateway.trace.checkpoint import Signed, at
from gateway.trace.key_chain import EVENT, named
from gateway.trace.log import LOG_ITSELF, Log
from gateway.trace.note import Checkpoint, VerifierKey
from gateway.trace.record import Draft, Field

_t = tables.trace.c
_c = tables.checkpoints.c


@frozen
class Change:
    """A record that hands over, and the head that ends with it."""

    index: int
    record: bytes
    to: VerifierKey
    signed: Signed


def hand_over(
    connection: Connection, log: Log, old: Ed25519PrivateKey, new: Ed25519PrivateKey
) -> Signed:
    """Record the new key and sign the head with both; the last heads of other logs, the sealed
    ones among them, get the new key's signature beside their own.

    Made again with the same keys it does no harm: each hand-over is whole by itself.
    """
    origin = log.head.origin
    fields: dict[str, Field] = {
        "event": EVENT,
        "verifier_key": str(VerifierKey.of(origin, new)),
        "previous": str(VerifierKey.of(origin, old)),
        "anchor": "urgent",
    }
    log.append(connection, [Draft("key_change", new_id("evt"), LOG_ITSELF, fields)])
    head = log.head
    checkpoint = Checkpoint(head.origin, head.size, head.root)
    signed = note.cosign(note.sign(checkpoint, old), new)
    connection.execute(
        insert(tables.checkpoints).values(
            log=head.number, size=head.size, root=head.root, note=signed, ts=log.now, kept=True
        )
    )
    _others(connection, head.number, new)
    return Signed(head.number, checkpoint, signed, log.now)


def _others(connection: Connection, number: int, new: Ed25519PrivateKey) -> None:
    last = select(_c.log, func.max(_c.size).label("size")).group_by(_c.log).subquery()
    query = select(_c.log, _c.size, _c.note).where(
        _c.log != number, _c.log == last.c.log, _c.size == last.c.size
    )
    for row in connection.execute(query).all():
        mine = (_c.log == row.log, _c.size == row.size)
        signed = note.cosign(row.note, new)
        connection.execute(update(tables.checkpoints).where(*mine).values(note=signed, kept=True))


def changes(connection: Connection, number: int, size: int) -> Iterator[Change]:
    """The hand-overs among a log's first records, oldest first."""
    query = (
        select(_t.idx, _t.body)
        .where(_t.log == number, _t.project_id == LOG_ITSELF, _t.kind == "key_change")
        .where(_t.idx < size)
        .order_by(_t.idx)
    )
    for row in connection.execute(query).all():
        to = named(row.body)
        signed = None if to is None else at(connection, number, row.idx + 1)
        if to is not None and signed is not None:
            yield Change(row.idx, row.body, to, signed)
