"""The outbox: what somebody asked to be told, written in the transaction in which it happened.

Whether it is ever delivered is `gateway.notifications`' matter; that it is not forgotten is ours.
"""

from collections.abc import Mapping

import orjson
from sqlalchemy import Connection, delete, insert, select

from gateway.clock import after
from gateway.ids import new_id
from gateway.store import tables

KINDS: Mapping[str, str] = {
    "approval.created": "approval.created",
    "approval.approved": "approval.decided",
    "approval.denied": "approval.decided",
    "budget.warning": "budget.warning",
    "budget.exceeded": "budget.exceeded",
    "tool.pin_changed": "tool.changed",
    "stop.raised": "stop.raised",
    "policy_change.refused": "policy.failed",
    "anchor.failed": "anchor.failed",
    "breaker.tripped": "breaker.tripped",
}
"""Events of the trace, and the kind of notification that each is told as."""
EVENTS = tuple(dict.fromkeys(KINDS.values()))
KEPT_DAYS = 30

_n = tables.notifications.c
_o = tables.outbox.c


def put(
    connection: Connection,
    project_id: str,
    now: str,
    event: str,
    subject: str,
    facts: Mapping[str, object],
) -> None:
    """Queue a message for each target of the project that wants to be told of the event.

    ``facts`` are ids and codes: what is erasable does not leave in a message.
    """
    kind = KINDS.get(event)
    if kind is None:
        return
    targets = connection.execute(select(_n.id, _n.events).where(_n.project_id == project_id))
    wanted = [row.id for row in targets if row.events is None or kind in row.events]
    if not wanted:
        return
    data = {"project_id": project_id, "id": subject, "event": event, **facts}
    body = orjson.dumps({"type": kind, "timestamp": now, "data": data}).decode()
    connection.execute(
        insert(tables.outbox),
        [
            {
                "id": new_id("msg"),
                "project_id": project_id,
                "notification_id": target,
                "body": body,
                "state": "PENDING",
                "attempts": 0,
                "due_at": now,
                "created_at": now,
            }
            for target in wanted
        ],
    )


def forget(connection: Connection, now: str) -> int:
    """Delete old messages that were delivered or given up; return how many."""
    old = _o.created_at < after(now, -KEPT_DAYS * 86_400)
    return connection.execute(delete(tables.outbox).where(old, _o.state != "PENDING")).rowcount
