"""What every noun of the registry needs: who changes it, inside which transaction, on what trail.

A noun's file holds functions over a `Change` (on the writing thread, in one transaction) or over
a connection that only reads. Whoever calls them decides what belongs into one transaction:
``await registry.change(actor, lambda change: keys.create(change, new))``.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TypeVar

import anyio.to_thread
import orjson
from sqlalchemy import Connection, Engine, update

from gateway.clock import Clock
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.keyring import Keyring
from gateway.policy.templates import Catalogue
from gateway.registry import outbox
from gateway.registry.directory import Directory
from gateway.registry.people import User
from gateway.store import tables
from gateway.store.database import announce
from gateway.store.writer import Writer
from gateway.trace.log import Log
from gateway.trace.record import Draft, Field
from gateway.values import Key, ProjectId, Role

Result = TypeVar("Result")

EVENT_RETENTION_DAYS = 3650
"""Who changed what is asked for years after; the payloads of calls go sooner."""


@frozen
class Actor:
    """Who makes a change, in which project."""

    project_id: ProjectId
    id: str
    """A key's id or a user's, ``operator`` for the command line, ``gateway`` for the gateway."""
    person: str
    role: Role

    @classmethod
    def of(cls, key: Key) -> "Actor":
        return cls(key.project_id, key.id, key.owner, key.role)

    @classmethod
    def of_user(cls, user: User) -> "Actor":
        return cls(user.project_id, user.id, user.name, user.role)

    @classmethod
    def operator(cls, project_id: ProjectId, person: str = "operator") -> "Actor":
        """Whoever holds the data directory."""
        return cls(project_id, "operator", person, Role.ADMIN)

    @classmethod
    def gateway(cls, project_id: ProjectId) -> "Actor":
        """What the gateway notices by itself, such as a tool that changed."""
        return cls(project_id, "gateway", "gateway", Role.ADMIN)


@frozen
class Confirming:
    """The proposal that a second person confirms; see `gateway.registry.proposals`."""

    proposal_id: str
    before: Mapping[str, object] | None
    """What it was to change, as it was then."""


@frozen
class Change:
    """One change inside the writer's transaction; all of it becomes durable, or nothing."""

    connection: Connection
    now: str
    by: Actor
    keyring: Keyring = field(repr=False)
    templates: Catalogue = field(repr=False)
    _log: Log = field(repr=False)
    _directory: Directory = field(repr=False)
    confirming: Confirming | None = None

    @property
    def project_id(self) -> ProjectId:
        return self.by.project_id

    def record(
        self,
        event: str,
        subject: str,
        *,
        codes: Mapping[str, Field] | None = None,
        before: Mapping[str, object] | None = None,
        after: Mapping[str, object] | None = None,
        reason: str = "",
    ) -> None:
        """Append the event to the trace, and have the project read again after the commit.

        ``codes`` go into the record for good; who, before, after and the reason are payloads. A
        secret belongs into neither.
        """
        values: dict[str, bytes] = {"by": self.by.person.encode()}
        if before is not None:
            values["before"] = orjson.dumps(before)
        if after is not None:
            values["after"] = orjson.dumps(after)
        if reason:
            values["reason"] = reason.encode()
        fields = {"event": event, "subject": subject, "actor": self.by.id, **(codes or {})}
        draft = Draft(
            kind="event",
            id=new_id("evt"),
            project_id=self.project_id,
            fields=fields,
            payloads=values,
            retention_days=EVENT_RETENTION_DAYS,
        )
        self._log.append(self.connection, [draft])
        outbox.put(self.connection, self.project_id, self.now, event, subject, codes or {})
        p = tables.projects.c
        moved = update(tables.projects).where(p.id == self.project_id)
        self.connection.execute(moved.values(changes=p.changes + 1))
        announce(self.connection)
        self._directory.touch(self.project_id)


@frozen
class Registry:
    """The way to all nouns: `change` and `read` for the event loop, `change_now` for commands."""

    writer: Writer
    reader: Engine
    log: Log
    directory: Directory
    keyring: Keyring
    clock: Clock
    templates: Catalogue
    _changed: "Pulse" = field(default_factory=lambda: Pulse(), repr=False)

    async def change(self, by: Actor, fn: Callable[[Change], Result]) -> Result:
        """Run the function in one transaction; what it returns is durable. Raises its `Fault`."""
        future = self.writer.change(lambda c: fn(self._begin(c, by)))
        # A caller that hangs up cancels neither the change nor the news of it.
        future.add_done_callback(lambda _: self._changed.beat())
        return await asyncio.shield(future)

    def change_now(self, by: Actor, fn: Callable[[Change], Result]) -> Result:
        """As `change`, from a thread without an event loop."""
        return self.writer.change_now(lambda c: fn(self._begin(c, by)))

    async def read(self, fn: Callable[[Connection], Result]) -> Result:
        """Run a function that only reads, in a thread, on one snapshot."""
        return await anyio.to_thread.run_sync(self.read_now, fn)

    def read_now(self, fn: Callable[[Connection], Result]) -> Result:
        with self.reader.connect() as connection, connection.begin():
            return fn(connection)

    @property
    def changes(self) -> int:
        """How many changes were made here; read it before the state that you wait to see change."""
        return self._changed.count

    async def changed(self, since: int, seconds: float) -> None:
        """Return once there are more changes than `since`, or after so many seconds."""
        await self._changed.wait(since, seconds)

    def changed_elsewhere(self) -> None:
        """Another gateway has changed something: whoever waits for that looks again."""
        self._changed.beat()

    def _begin(self, connection: Connection, by: Actor) -> Change:
        return Change(
            connection=connection,
            now=self.log.now,
            by=by,
            keyring=self.keyring,
            templates=self.templates,
            _log=self.log,
            _directory=self.directory,
        )


class Pulse:
    """Wakes whoever waits; belongs to one event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def beat(self) -> None:
        self.count += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, since: int, seconds: float) -> None:
        if self.count != since:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait({future}, timeout=seconds)
        finally:
            self._waiting.discard(future)
