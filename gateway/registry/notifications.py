"""Whom a project wants told of what: webhooks, chat rooms, mail addresses.

A URL is kept sealed, because that of a chat's incoming webhook is a password; lists show its host.
"""

import base64
import os
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, Field, model_validator
from sqlalchemy import Connection, Row, delete, func, insert, select

from gateway.ids import new_id
from gateway.keyring import encrypt
from gateway.registry import pages
from gateway.registry.core import Change
from gateway.registry.faults import Conflict
from gateway.registry.fields import Input, Name, Url
from gateway.registry.pages import Page
from gateway.store import tables

MOST = 50
"""Targets of a project: each event is a message to every one."""

_n = tables.notifications.c
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,190}")


def _address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("must be one mail address, such as security@example.com")
    return value


Event = Literal[
    "approval.created",
    "approval.decided",
    "budget.warning",
    "budget.exceeded",
    "tool.changed",
    "stop.raised",
    "policy.failed",
    "anchor.failed",
    "breaker.tripped",
]


class NewNotification(Input):
    name: Name
    kind: Literal["webhook", "slack", "teams", "email"]
    url: Annotated[Url | None, Field(description="Of all kinds but email")] = None
    address: Annotated[
        Annotated[str, AfterValidator(_address)] | None, Field(description="Of email alone")
    ] = None
    events: Annotated[
        Annotated[list[Event], Field(min_length=1)] | None,
        Field(description="Without a choice all, also those of a later version"),
    ] = None
    allow_private_network: Annotated[
        bool,
        Field(description="In one of those that the operator names in GATEWAY_PRIVATE_UPSTREAMS"),
    ] = False

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        wanted, other = ("address", "url") if self.kind == "email" else ("url", "address")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.kind} needs {wanted}, and no {other}")
        return self


def create(change: Change, new: NewNotification) -> tuple[Row[Any], str | None]:
    """The row and, for a webhook, the secret that its messages are signed with: shown once.

    Raises `Conflict`.
    """
    counted = select(func.count()).where(_n.project_id == change.project_id)
    if change.connection.execute(counted).scalar_one() >= MOST:
        raise Conflict(f"A project has at most {MOST} notifications; delete one first.")
    notification_id = new_id("ntf")
    secret = None
    if new.kind == "webhook":
        secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    target = {"url": new.url, "address": new.address, "secret": secret}
    shown = new.address or _shown(new.url or "")
    change.connection.execute(
        insert(tables.notifications).values(
            id=notification_id,
            project_id=change.project_id,
            name=new.name,
            kind=new.kind,
            target=shown,
            target_sealed=encrypt(
                change.keyring.data, orjson.dumps(target), notification_id.encode()
            ),
            allow_private_network=new.allow_private_network,
            events=new.events,
            created_at=change.now,
        )
    )
    after = {"name": new.name, "kind": new.kind, "target": shown, "events": new.events}
    codes = {"notification": notification_id}
    change.record("notification.created", notification_id, codes=codes, after=after)
    return get(change.connection, change.project_id, notification_id), secret


def remove(change: Change, notification_id: str) -> None:
    """Delete a target, with the messages that still wait for it. Raises `Missing`."""
    row = get(change.connection, change.project_id, notification_id)
    waiting = tables.outbox.c.notification_id == notification_id
    change.connection.execute(delete(tables.outbox).where(waiting))
    change.connection.execute(delete(tables.notifications).where(_n.id == notification_id))
    before = {"name": row.name, "kind": row.kind, "target": row.target, "events": row.events}
    codes = {"notification": notification_id}
    change.record("notification.removed", notification_id, codes=codes, before=before)


def get(connection: Connection, project_id: str, notification_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.notifications, project_id, notification_id, "notification")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.notifications).where(_n.project_id == project_id)
    return pages.page(connection, query, _n.id, cursor, limit)


def standing(connection: Connection, notification_id: str) -> tuple[int, str | None, str | None]:
    """How many messages wait, when one last arrived, and why one last did not."""
    o = tables.outbox.c
    mine = o.notification_id == notification_id
    waiting = select(func.count()).where(mine, o.state == "PENDING")
    sent = select(func.max(o.sent_at)).where(mine)
    failed = (
        select(o.error).where(mine, o.error.is_not(None)).order_by(o.created_at.desc()).limit(1)
    )
    return (
        connection.execute(waiting).scalar_one(),
        connection.execute(sent).scalar_one(),
        connection.execute(failed).scalar_one_or_none(),
    )


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"
