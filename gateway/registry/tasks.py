"""Calls that the gateway carries out itself, once a person has approved them: MCP's tasks.

A row is made before its client is told of it, and any gateway may carry it out: one that claims it
holds a lease. A lease that ran out is looked at again: a call that was admitted may have run, so
its task ends as one of unknown outcome; one that was not is claimed anew.

States: WAITING for the approval · READY to go on, its tool's question being answered · RUNNING ·
ASKING its client · HANDED_ON to a task of its server's · COMPLETED · FAILED · CANCELLED.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    delete,
    insert,
    or_,
    select,
    update,
)

from gateway.clock import after
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.store import tables
from gateway.values import ProjectId

State = Literal[
    "WAITING", "READY", "RUNNING", "ASKING", "HANDED_ON", "COMPLETED", "FAILED", "CANCELLED"
]

KEPT_SECONDS = 3600
"""How long a task is kept after its approval's time, or after its end."""
OPEN = ("WAITING", "READY", "RUNNING", "ASKING")

_t = tables.tasks.c
_a = tables.approvals.c


@frozen
class NewTask:
    """A call that waits; `request` is sealed by whoever makes it, for the task's id."""

    id: str
    project_id: ProjectId
    key_id: str
    server_id: str
    approval_id: str
    approval_expires_at: str
    trace_id: str
    request_sealed: bytes
    told: str


@frozen
class End:
    """What a claim on a task ends with."""

    state: State
    told: str
    result_sealed: bytes | None = None


def begin(connection: Connection, new: NewTask, now: str) -> Row[Any]:
    """Keep a call; the same call of the same key that waits already stays the one task."""
    waiting = select(tables.tasks).where(
        _t.approval_id == new.approval_id,
        _t.key_id == new.key_id,
        _t.server_id == new.server_id,
        _t.state == "WAITING",
    )
    row = connection.execute(waiting).first()
    if row is not None:
        return row
    connection.execute(
        insert(tables.tasks).values(
            id=new.id,
            project_id=new.project_id,
            key_id=new.key_id,
            server_id=new.server_id,
            approval_id=new.approval_id,
            trace_id=new.trace_id,
            state="WAITING",
            round=0,
            request_sealed=new.request_sealed,
            told=new.told,
            created_at=now,
            updated_at=now,
            expires_at=after(new.approval_expires_at, KEPT_SECONDS),
        )
    )
    return connection.execute(select(tables.tasks).where(_t.id == new.id)).one()


def find(connection: Connection, project_id: str, task_id: str, now: str) -> Row[Any] | None:
    """A task that is still kept, with the state of its approval as ``approval_…``."""
    query = _with_approval().where(
        _t.id == task_id, _t.project_id == project_id, _t.expires_at > now
    )
    return connection.execute(query).first()


def due(connection: Connection, now: str, limit: int) -> list[Row[Any]]:
    """Tasks that somebody should carry out, or look after, oldest first."""
    approved = and_(_t.state == "WAITING", _a.state == "APPROVED", _a.expires_at > now)
    lapsed = and_(_t.state == "RUNNING", _t.lease_until <= now)
    query = _with_approval().where(_t.expires_at > now, or_(_t.state == "READY", approved, lapsed))
    return list(connection.execute(query.order_by(_t.created_at).limit(limit)).all())


def claim(
    connection: Connection, row: Row[Any], owner: str, call_id: str, until: str
) -> Row[Any] | None:
    """Take a task that is to run, for the first who comes; None for everybody else."""
    taken = (
        update(tables.tasks)
        .where(_t.id == row.id, _t.state == row.state, _t.state.in_(("WAITING", "READY")))
        .values(state="RUNNING", call_id=call_id, lease_owner=owner, lease_until=until)
        .returning(*tables.tasks.c)
    )
    return connection.execute(taken).first()


def renew(connection: Connection, owner: str, task_ids: Iterable[str], until: str) -> set[str]:
    """Hold on to what is running; return those that are still held."""
    held = (
        update(tables.tasks)
        .where(_t.id.in_(list(task_ids)), _t.lease_owner == owner, _t.state == "RUNNING")
        .values(lease_until=until)
        .returning(_t.id)
    )
    return set(connection.execute(held).scalars())


def take_over(connection: Connection, row: Row[Any], now: str, unknown: End) -> None:
    """A lease ran out: end the task as `unknown` if its call was admitted, else let it be claimed.

    Whoever held the lease does not send any more: it ended for them earlier.
    """
    still = and_(_t.id == row.id, _t.state == "RUNNING", _t.lease_until == row.lease_until)
    values: Mapping[str, object] = _ending(unknown, now)
    if not _admitted(connection, row.call_id):
        again = "READY" if row.round else "WAITING"
        values = {"state": again, "lease_owner": None, "lease_until": None}
    connection.execute(update(tables.tasks).where(still).values(**values))


def end(connection: Connection, task_id: str, owner: str, ended: End, now: str) -> bool:
    """End the claim on a task; False when it was cancelled or taken over meanwhile."""
    held = (_t.id == task_id, _t.state == "RUNNING", _t.lease_owner == owner)
    done = update(tables.tasks).where(*held).values(**_ending(ended, now))
    return connection.execute(done).rowcount == 1


def wait_again(
    connection: Connection, task_id: str, approval_id: str, approval_expires_at: str, now: str
) -> None:
    """Another approval is wanted by now: wait for that one."""
    connection.execute(
        update(tables.tasks)
        .where(_t.id == task_id, _t.state == "RUNNING")
        .values(
            state="WAITING",
            approval_id=approval_id,
            lease_owner=None,
            lease_until=None,
            updated_at=now,
            expires_at=after(approval_expires_at, KEPT_SECONDS),
        )
    )


def answered(connection: Connection, row: Row[Any], request_sealed: bytes, now: str) -> bool:
    """Its tool's questions are answered; False when somebody did that before."""
    asking = (_t.id == row.id, _t.state == "ASKING", _t.round == row.round)
    values = {"state": "READY", "request_sealed": request_sealed, "updated_at": now}
    return connection.execute(update(tables.tasks).where(*asking).values(**values)).rowcount == 1


def cancel(connection: Connection, scope: ColumnElement[bool], told: str, now: str) -> int:
    """Cancel what is not over; return how many there were. What runs is cut by whoever runs it."""
    values = _ending(End("CANCELLED", told), now)
    values["request_sealed"] = b""
    cancelled = update(tables.tasks).where(scope, _t.state.in_(OPEN)).values(**values)
    return connection.execute(cancelled).rowcount


def of_approvals(approvals: Select[Any]) -> ColumnElement[bool]:
    """The tasks that wait for, or go on under, the approvals whose ids are selected."""
    return _t.approval_id.in_(approvals)


def is_task(task_id: str) -> ColumnElement[bool]:
    return _t.id == task_id


def erase(connection: Connection, project_id: str, trace_id: str) -> None:
    """Forget the tasks of a call, with what they kept of it."""
    mine = or_(_t.trace_id == trace_id, _t.call_id == trace_id)
    connection.execute(delete(tables.tasks).where(_t.project_id == project_id, mine))


def forget(connection: Connection, now: str) -> int:
    """Delete the tasks that nobody may ask about any more; return how many."""
    return connection.execute(delete(tables.tasks).where(_t.expires_at <= now)).rowcount


def _with_approval() -> Select[Any]:
    decided = (_a.state, _a.spent_by, _a.expires_at)
    return select(
        tables.tasks, *(column.label(f"approval_{column.name}") for column in decided)
    ).select_from(tables.tasks.outerjoin(tables.approvals, _a.id == _t.approval_id))


def _ending(ended: End, now: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "state": ended.state,
        "told": ended.told,
        "result_sealed": ended.result_sealed,
        "lease_owner": None,
        "lease_until": None,
        "updated_at": now,
        "expires_at": after(now, KEPT_SECONDS),
    }
    if ended.state == "ASKING":
        values["round"] = _t.round + 1
    return values


def _admitted(connection: Connection, call_id: str) -> bool:
    """Whether the call may have been sent: its decision is on disk, and is no refusal."""
    t = tables.trace.c
    decided = select(t.id).where(
        t.call_id == call_id, t.kind == "decision", t.reason_code.is_(None)
    )
    return connection.execute(decided.limit(1)).first() is not None


def new_task_id() -> str:
    return new_id("tsk")
