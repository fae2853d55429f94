"""`/notifications`: who is told of what, and whether it arrives."""

from typing import Any

from sqlalchemy import Connection, Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import notifications
from gateway.registry.core import Change
from gateway.registry.notifications import NewNotification


class NotificationOut(Output):
    id: str
    name: str
    kind: str
    target: str
    """The mail address, or the host of the URL; the rest of it may be a password."""
    events: list[str] | None
    allow_private_network: bool
    waiting: int
    """Messages that are not delivered yet."""
    last_sent_at: str | None
    last_error: str | None
    created_at: str


class NewNotificationOut(NotificationOut):
    signing_secret: str | None
    """Of a webhook, for Standard Webhooks' `v1`: shown this once."""


async def list_notifications(call: ApiCall, query: ListQuery) -> Listing[NotificationOut]:
    def read(connection: Connection) -> Listing[NotificationOut]:
        page = notifications.listed(connection, call.project_id, query.cursor, query.limit)
        return listing(page, lambda row: NotificationOut(**_shown(connection, row)))

    return await call.read(read)


async def create(call: ApiCall, body: NewNotification) -> NewNotificationOut:
    def change_it(change: Change) -> NewNotificationOut:
        row, secret = notifications.create(change, body)
        return NewNotificationOut(signing_secret=secret, **_shown(change.connection, row))

    return await call.change(change_it)


async def remove(call: ApiCall) -> None:
    await call.change(lambda change: notifications.remove(change, call.path["id"]))


def _shown(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    waiting, sent, error = notifications.standing(connection, row.id)
    told = {"waiting": waiting, "last_sent_at": sent, "last_error": error}
    return told | {
        name: getattr(row, name) for name in NotificationOut.model_fields if name not in told
    }
