"""What anchors follow and where they write; what opening one gives."""

from collections.abc import Mapping

from sqlalchemy import Engine

from gateway.anchors.outbox import Outbox
from gateway.anchors.worker import Backend
from gateway.clock import Clock
from gateway.egress.outgoing import Outgoing
from gateway.frozen import frozen
from gateway.settings import Settings
from gateway.store.writer import Writer
from gateway.trace.checkpoint import Signing
from gateway.trace.log import Log


class AnchorUnusable(Exception):
    """A backend cannot be opened as it is set up; the message says what to put right."""


@frozen
class Place:
    """The log, its database, and what the operators set."""

    settings: Settings
    writer: Writer
    reader: Engine
    clock: Clock
    log: Log
    signing: Signing

    def outbox(self, backend: str) -> Outbox:
        return Outbox(self.writer, self.reader, self.clock, backend)


@frozen
class Opened:
    """A backend at work, by the name that its rows bear."""

    name: str
    identity: Mapping[str, object]
    """Who vouches; another than before is a record of the log."""
    backend: Backend
    outbox: Outbox


def outgoing(settings: Settings, url: str) -> Outgoing:
    """Raises `gateway.egress.guard.EgressRefused`."""
    return Outgoing(url, private_allowed=settings.private_upstreams)
