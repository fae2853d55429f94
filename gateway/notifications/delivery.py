"""Empties the outbox: takes what is due, sends it, and tries again later what was not taken.

A message is claimed before it is sent and marked after; a crash between the two sends it again
under the same id, by which a receiver knows it. Never does one vanish.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import structlog
from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection, Row, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import after
from gateway.frozen import frozen
from gateway.keyring import decrypt
from gateway.notifications.channels import Gone, Mail, Undelivered, Web
from gateway.notifications.formats import mail, slack, teams, told
from gateway.registry.core import Registry
from gateway.settings import Settings
from gateway.store import tables
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text

POLL_SECONDS = 0.5
LEASE_SECONDS = 60.0
"""How long a claimed message is left to who claimed it: longer than an attempt takes."""
AT_ONCE = 16
BACKOFF_SECONDS = (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)
"""After each attempt that failed; when they are used up, the message is given up."""

_log = structlog.get_logger(__name__)
_o = tables.outbox.c
_n = tables.notifications.c


@frozen
class _Message:
    id: str
    body: str
    attempts: int
    """This one included."""
    target: Row[Any]


class Delivery:
    """``mail_server`` is None where the deployment names none: mail then waits and says so."""

    def __init__(self, registry: Registry, web: Web, mail_server: Mail | None) -> None:
        self._registry = registry
        self._web = web
        self._mail = mail_server
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For as long as the gateway runs; cancelled at its end."""
        try:
            while True:
                await self.once()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    async def once(self) -> None:
        """Begin to send what is due and free hands allow."""
        free = AT_ONCE - len(self._sending)
        if free <= 0:
            return
        try:
            due = await self._registry.read(lambda connection: self._due(connection, free))
            if not due:
                return
            claimed = await self._registry.writer.change(lambda c: self._claim(c, due))
        except (SQLAlchemyError, WriterStopped) as fault:
            _log.error("the outbox cannot be read now", why=fault_text(fault))
            return
        for message in claimed:
            task = asyncio.create_task(self._deliver(message))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def settled(self) -> None:
        """Wait for what is being sent."""
        await asyncio.gather(*self._sending)

    def _due(self, connection: Connection, limit: int) -> list[str]:
        now = self._registry.clock.now()
        due = select(_o.id).where(_o.state == "PENDING", _o.due_at <= now)
        return list(connection.execute(due.order_by(_o.due_at, _o.id).limit(limit)).scalars())

    def _claim(self, connection: Connection, ids: Sequence[str]) -> list[_Message]:
        """Those that nobody else claimed meanwhile."""
        now = self._registry.clock.now()
        claimed = []
        for message_id in ids:
            row = connection.execute(
                update(tables.outbox)
                .where(_o.id == message_id, _o.state == "PENDING", _o.due_at <= now)
                .values(due_at=after(now, LEASE_SECONDS), attempts=_o.attempts + 1)
                .returning(_o.body, _o.attempts, _o.notification_id)
            ).first()
            if row is None:
                continue
            query = select(tables.notifications).where(_n.id == row.notification_id)
            target = connection.execute(query).first()
            if target is not None:
                claimed.append(_Message(message_id, row.body, row.attempts, target))
        return claimed

    async def _deliver(self, message: _Message) -> None:
        error, gone = None, False
        try:
            await self._send(message)
        except Gone as fault:
            error, gone = str(fault), True
        except Undelivered as fault:
            error = str(fault)
        except InvalidTag:
            error, gone = "its address cannot be opened: the data key is another one", True
        try:
            await self._registry.writer.change(lambda c: self._mark(c, message, error, gone))
        except (SQLAlchemyError, WriterStopped) as fault:
            # Its claim runs out, and it is sent once more.
            _log.error("a delivery is not written down", message=message.id, why=fault_text(fault))

    async def _send(self, message: _Message) -> None:
        row = message.target
        sealed = decrypt(self._registry.keyring.data, row.target_sealed, row.id.encode())
        target = orjson.loads(sealed)
        event = told(message.body)
        if row.kind == "email":
            if self._mail is None:
                raise Undelivered("GATEWAY_SMTP_URL is not set: there is no mail server")
            sender = self._mail.sender
            await self._mail.send(mail(event, message.id, sender, target["address"]))
            return
        bodies = {"webhook": event.raw, "slack": slack(event), "teams": teams(event)}
        await self._web.post(
            target["url"],
            bodies[row.kind],
            private=row.allow_private_network,
            message_id=message.id,
            secret=target["secret"],
        )

    def _mark(
        self, connection: Connection, message: _Message, error: str | None, gone: bool
    ) -> None:
        now = self._registry.clock.now()
        values: dict[str, object] = {"error": error}
        if error is None:
            values |= {"state": "SENT", "sent_at": now}
        elif gone or message.attempts > len(BACKOFF_SECONDS):
            values |= {"state": "FAILED"}
            _log.error("a notification is given up", message=message.id, why=error)
        else:
            values |= {"due_at": after(now, BACKOFF_SECONDS[message.attempts - 1])}
        connection.execute(update(tables.outbox).where(_o.id == message.id).values(**values))


def the_delivery(
    settings: Settings, registry: Registry, listeners: frozenset[tuple[str, int]]
) -> Delivery:
    """As the deployment has it; ``listeners`` are the gateway's own, which are never told."""
    web = Web(private_allowed=settings.private_upstreams, listeners=listeners)
    url = settings.smtp_url
    mail_server = None if url is None else Mail(url.get_secret_value(), settings.smtp_from)
    return Delivery(registry, web, mail_server)
