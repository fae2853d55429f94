"""Approvals: a person lets one exact call pass, once, or does not. Expiry is derived when read.

Approvals are made and spent by admission; here they are listed, decided and withdrawn.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field
from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, update

from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt
from gateway.registry import pages, tasks, users
from gateway.registry.core import Actor, Change
from gateway.registry.faults import Conflict, Forbidden, Invalid, Missing
from gateway.registry.fields import Description, Input, folded
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Key, Role

Status = Literal["PENDING", "APPROVED", "CONSUMED", "DENIED", "EXPIRED"]
Verb = Literal["approve", "deny"]

_a = tables.approvals.c


class Ruling(Input):
    """An approver's word on one approval; a policy may want a reason with it."""

    reason: Annotated[Description, Field(max_length=2000)] = ""


@frozen
class Opened:
    """What `gateway.registry.grants` sealed for the approver's eyes."""

    params: bytes
    """The JSON of the call's `params`: what is approved; ``null`` once it was erased."""
    reason: str
    """Why policy asks; empty once it was erased."""


def opened(keyring: Keyring, row: Row[Any]) -> Opened:
    """Open an approval."""
    if not row.call_sealed:
        return Opened(b"null", "")
    params, _, reason = decrypt(keyring.data, row.call_sealed, row.id.encode()).partition(b"\n")
    # Those that an earlier version asked for have it in the clear.
    return Opened(params, orjson.loads(reason) if reason else row.reason)


def effective_status(row: Row[Any], now: str) -> Status:
    """What an approval is worth now, whatever state was last written."""
    return status_of(row.state, row.spent_by, row.expires_at, now)


def status_of(state: str, spent_by: str | None, expires_at: str, now: str) -> Status:
    """`effective_status` of an approval of which only these are at hand."""
    if spent_by is not None:
        return "CONSUMED"
    if state in ("DENIED", "WITHDRAWN"):
        return "DENIED"
    if expires_at <= now:
        return "EXPIRED"
    return "APPROVED" if state == "APPROVED" else "PENDING"


def _has_status(status: Status, now: str) -> ColumnElement[bool]:
    """`effective_status` as a condition."""
    undecided = and_(_a.spent_by.is_(None), _a.state.in_(("PENDING", "APPROVED")))
    match status:
        case "CONSUMED":
            return _a.spent_by.is_not(None)
        case "DENIED":
            return and_(_a.spent_by.is_(None), _a.state.in_(("DENIED", "WITHDRAWN")))
        case "EXPIRED":
            return and_(undecided, _a.expires_at <= now)
        case _:
            return and_(undecided, _a.state == status, _a.expires_at > now)


def listed(
    connection: Connection,
    project_id: str,
    status: Status | None,
    now: str,
    cursor: str | None,
    limit: int,
) -> Page[Row[Any]]:
    query = select(tables.approvals).where(_a.project_id == project_id)
    if status is not None:
        query = query.where(_has_status(status, now))
    return pages.page(connection, query, _a.id, cursor, limit)


def pending(connection: Connection, project_id: str, now: str) -> int:
    """How many wait for a person."""
    query = select(func.count()).where(_a.project_id == project_id, _has_status("PENDING", now))
    return connection.execute(query).scalar_one()


def get(connection: Connection, project_id: str, approval_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.approvals, project_id, approval_id, "approval")


def asked_by(
    connection: Connection, key: Key, approval_id: str | None, trace_id: str | None
) -> Row[Any]:
    """The approval that this key itself asked for. Raises `Missing`, `Invalid`."""
    if (approval_id is None) == (trace_id is None):
        raise Invalid({"approval_id": "give either approval_id or trace_id"})
    query = select(tables.approvals).where(
        _a.project_id == key.project_id,
        _a.key_id == key.id,
        _a.id == approval_id if trace_id is None else _a.trace_id == trace_id,
    )
    row = connection.execute(query).first()
    if row is None:
        raise Missing("approval")
    return row


def decide(change: Change, approval_id: str, verb: Verb, reason: str = "") -> Row[Any]:
    """Deny, or approve; where a quorum is wanted, the last of its people's word approves.

    Raises `Conflict` when it is too late or said already, `Forbidden` for a person who may not
    decide this one, `Invalid` where the policy wants a reason.
    """
    row = _locked(change, approval_id)
    if change.by.role not in (Role.ADMIN, Role.APPROVER):
        raise Forbidden("Only approvers and administrators decide approvals.")
    status = effective_status(row, change.now)
    if status != "PENDING":
        raise Conflict(f"The approval is {status} and cannot be decided any more.")
    if row.reason_required and not reason.strip():
        raise Invalid({"reason": "is wanted by the policy"})
    if verb == "deny":
        return _end(change, row, "DENIED", change.by.person, reason, [*row.votes])
    _check_approver(change, row)
    if folded(change.by.person) in {folded(vote["person"]) for vote in row.votes}:
        raise Conflict("You have approved it already; it waits for another person.")
    vote = {"person": change.by.person, "by": change.by.id, "at": change.now, "reason": reason}
    votes = [*row.votes, vote]
    if len(votes) < row.quorum:
        return _wait(change, row, votes, reason)
    people = ", ".join(vote["person"] for vote in votes)
    return _end(change, row, "APPROVED", people, reason, votes)


def _locked(change: Change, approval_id: str) -> Row[Any]:
    query = select(tables.approvals).where(_a.id == approval_id, _a.project_id == change.project_id)
    row = change.connection.execute(query.with_for_update()).first()
    if row is None:
        raise Missing("approval")
    return row


def _wait(change: Change, row: Row[Any], votes: list[dict[str, str]], reason: str) -> Row[Any]:
    change.connection.execute(update(tables.approvals).where(_a.id == row.id).values(votes=votes))
    codes = _codes(row) | {"votes": len(votes), "quorum": row.quorum}
    change.record("approval.voted", row.id, codes=codes, reason=reason)
    return get(change.connection, change.project_id, row.id)


def _end(
    change: Change,
    row: Row[Any],
    state: str,
    people: str,
    reason: str,
    votes: list[dict[str, str]],
) -> Row[Any]:
    change.connection.execute(
        update(tables.approvals)
        .where(_a.id == row.id)
        .values(
            state=state,
            votes=votes,
            decided_by=people,
            decided_at=change.now,
            decision_reason=reason,
        )
    )
    change.record(f"approval.{state.lower()}", row.id, codes=_codes(row), reason=reason)
    return get(change.connection, change.project_id, row.id)


def _codes(row: Row[Any]) -> dict[str, Code]:
    return {
        "approval": row.id,
        "server": row.server_id,
        "agent": row.agent_id,
        "risk": row.risk,
        "call_asked": row.trace_id,
        "digest": row.digest,
    }


def withdraw(change: Change, scope: ColumnElement[bool], reason: str) -> int:
    """Void whatever in the scope could still let a call pass; return how many there were.

    What was pending is denied, what was granted and not spent is withdrawn.
    """
    # A call under way may still not leave, and then gives its grant back: void that one too.
    unspent = _a.spent_by.is_(None) | _a.spent_by.in_(select(tables.open_calls.c.call_id))
    covered = select(_a.id).where(_a.project_id == change.project_id, scope)
    tasks.cancel(
        change.connection, tasks.of_approvals(covered), f"Cancelled: {reason}.", change.now
    )
    # A call that was approved and sent does not go on either.
    change.connection.execute(
        update(tables.approvals)
        .where(_a.project_id == change.project_id, scope)
        .where(_a.spent_by.is_not(None), _a.expires_at > change.now)
        .values(rounds=-1)
    )
    count = 0
    for status, state in (("PENDING", "DENIED"), ("APPROVED", "WITHDRAWN")):
        changed = change.connection.execute(
            update(tables.approvals)
            .where(_a.project_id == change.project_id, scope)
            .where(_a.state == status, unspent, _a.expires_at > change.now)
            .values(
                state=state,
                decided_by=change.by.person,
                decided_at=change.now,
                decision_reason=reason,
            )
        )
        count += changed.rowcount
    return count


def abandon(change: Change, approval_id: str, why: str) -> bool:
    """Whoever asked does not want the call any more; False when it was decided, or has expired.

    Withdrawn, not denied: asked again, the same call is a new question to a person.
    """
    withdrawn = change.connection.execute(
        update(tables.approvals)
        .where(_a.id == approval_id, _a.project_id == change.project_id)
        .where(_a.state == "PENDING", _a.expires_at > change.now)
        .values(
            state="WITHDRAWN",
            decided_by=change.by.person,
            decided_at=change.now,
            decision_reason=why,
        )
    )
    if withdrawn.rowcount != 1:
        return False
    row = get(change.connection, change.project_id, approval_id)
    change.record("approval.withdrawn", approval_id, codes=_codes(row), reason=why)
    return True


def of_agent(agent_id: str, key_ids: tuple[str, ...] = ()) -> ColumnElement[bool]:
    return or_(_a.agent_id == agent_id, _a.key_id.in_(key_ids))


def of_key(key_id: str) -> ColumnElement[bool]:
    return _a.key_id == key_id


def of_server(server_id: str) -> ColumnElement[bool]:
    return _a.server_id == server_id


def _check_approver(change: Change, row: Row[Any]) -> None:
    if not _keys_approve(change) and _is_key(change.by):
        raise Forbidden("Keys do not approve in this project; see its setting key_approvers.")
    person = folded(change.by.person)
    if row.approvers is not None and person not in _folded(row.approvers):
        raise Forbidden("The policy names who may approve this, and you are not among them.")
    connection, keys, agents = change.connection, tables.keys.c, tables.agents.c
    askers: set[str | None] = set(row.askers)
    key = select(keys.owner, keys.created_by, keys.rotated_by, keys.agent_id)
    for *hands, agent_id in connection.execute(key.where(keys.id == row.key_id)):
        askers |= set(hands)
        named = {row.agent_id, agent_id} - {None}
        owners = select(agents.owner).where(agents.id.in_(named))
        askers |= set(connection.execute(owners).scalars())
    deciding = {change.by.person} | users.knowing(connection, change.project_id, change.by.id)
    if _folded(deciding) & _folded(askers):
        raise Forbidden(
            "Whoever owns, made or rotated the asking key, or owns its agent, cannot approve; nor "
            "can who signs in with a password that they set. Change the password, or ask another."
        )


def _folded(people: Iterable[str | None]) -> set[str]:
    return {folded(person) for person in people if person}


def _keys_approve(change: Change) -> bool:
    projects = tables.projects.c
    query = select(projects.key_approvers).where(projects.id == change.project_id)
    return bool(change.connection.execute(query).scalar_one())


def _is_key(actor: Actor) -> bool:
    return actor.id.startswith("key_")
