"""Follows what other gateways change in the database that they share with this one.

Each change counts its project up and sends word when it is durable (LISTEN/NOTIFY). Whoever hears
it, and without a word each second, compares the counts and reads the projects that moved: stops,
pauses, keys, policies, approvals. Who cannot read them for some seconds refuses calls, since a stop
may be among what it does not know.
"""

import asyncio
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.data_dir.state import State
from gateway.registry.directory import ProjectView
from gateway.store import tables
from gateway.store.postgresql import CHANNEL
from gateway.values import ProjectId, Stop, StopId

POLL_SECONDS = 1.0
UNTOLD_SECONDS = 0.2
"""Between two looks where no notification can come: what admission does not ask the database
about, such as a list of tools, follows a stop as soon."""
_LISTEN_AGAIN = 5
"""Looks, after which it is tried to listen once more; the server may be slow to refuse."""
BLIND_SECONDS = 5.0
"""How long calls are still answered by what was last read."""
_DIAL_SECONDS = 5

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Following:
    """``cancel_calls`` cuts the running calls that a stop covers. An agent that may not act any
    more counts as stopped.
    """

    state: State
    cancel_calls: Callable[[Stop], object]
    _views: dict[ProjectId, ProjectView] = field(default_factory=dict)
    """As last looked at here. The directory may know more: a change of this gateway's own lets it
    read what others changed just before."""
    _stops: set[StopId] | None = None
    """All that there ever were, when last looked at."""
    _read_at: float = field(default_factory=time.monotonic)
    _told: bool = True
    _asked_at: float = 0.0
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Until cancelled; without a shared database there is nobody to follow."""
        if not isinstance(self.state.place, str):
            await asyncio.get_running_loop().create_future()
        self._read_at = time.monotonic()
        self._views = self._viewed()
        self.state.directory.must_follow(self.sees, self.catch_up)
        while True:
            listening = await self._listen()
            try:
                await self._follow(listening)
            finally:
                if listening is not None:
                    await listening.close()

    def sees(self) -> bool:
        """Whether stops of other gateways were read a moment ago."""
        return time.monotonic() - self._read_at < BLIND_SECONDS

    async def catch_up(self) -> None:
        """Return when what was changed before this was called is known, if it can be read.

        However many ask, one reading runs at a time, and serves all who came before it.
        """
        came = time.monotonic()
        async with self._door:
            if self._asked_at < came:
                self._asked_at = time.monotonic()
                await self.once()

    async def once(self) -> bool:
        """Read what moved. Returns False when the database cannot be read."""
        started = time.monotonic()
        try:
            moved, stops = await anyio.to_thread.run_sync(self._read)
        except SQLAlchemyError as fault:
            if self._told:
                _log.error("what other gateways change cannot be read", why=type(fault).__name__)
            self._told = False
            return False
        self._read_at, self._told = started, True
        for stop in stops:
            self.cancel_calls(stop)
        if moved:
            self.state.registry.changed_elsewhere()
        return True

    def _read(self) -> tuple[bool, list[Stop]]:
        """Whether anything moved elsewhere, and what was stopped since this was last called."""
        moved = self._reread()
        views = self._viewed()
        same = all(self._views.get(project_id) is view for project_id, view in views.items())
        if same and self._stops is not None:
            return moved, []
        stopped = [*self._new_stops(), *_stopped_agents(self._views, views)]
        self._views = views
        # A stop may be later than what was read before it, and nothing is cut that may begin anew.
        # What else is read now differs from the views at the next look, which reads the stops.
        moved = self._reread() or moved
        return moved, stopped

    def _reread(self) -> bool:
        directory = self.state.directory
        with self.state.reader.connect() as connection, connection.begin():
            moved = directory.moved(_counts(connection))
        for project_id in moved:
            with self.state.reader.connect() as connection:
                directory.reread(connection, project_id)
        return bool(moved)

    def _viewed(self) -> dict[ProjectId, ProjectView]:
        return {view.project.id: view for view in self.state.directory.projects()}

    def _new_stops(self) -> list[Stop]:
        """One that is lifted already has to cut what ran, too."""
        with self.state.reader.connect() as connection, connection.begin():
            rows = connection.execute(select(tables.stops)).all()
        known = self._stops
        if known is None:
            known = {StopId(row.id) for row in rows if row.lifted_at is not None}
        self._stops = {StopId(row.id) for row in rows}
        return [
            Stop(row.id, row.project_id, row.scope, row.target_id, row.reason)
            for row in rows
            if row.id not in known
        ]

    async def _listen(self) -> Any:
        """A connection that hears of changes, or None while there is none to be had."""
        driver = importlib.import_module("psycopg")
        with suppress(driver.Error):
            connection = await driver.AsyncConnection.connect(
                self.state.place, autocommit=True, connect_timeout=_DIAL_SECONDS
            )
            try:
                await connection.execute(f"LISTEN {CHANNEL}")
            except BaseException:  # cancelled, too
                await connection.close()
                raise
            return connection
        return None

    async def _follow(self, listening: Any) -> None:
        """Until the connection ends, or the database cannot be read."""
        driver = importlib.import_module("psycopg")
        while await self.once():
            if listening is None:
                await self._look_untold()
                return
            try:
                async for _ in listening.notifies(timeout=POLL_SECONDS, stop_after=1):
                    pass
            except driver.Error:
                return
        await asyncio.sleep(POLL_SECONDS)

    async def _look_untold(self) -> None:
        for _ in range(_LISTEN_AGAIN):
            await asyncio.sleep(UNTOLD_SECONDS)
            if not await self.once():
                return


def _stopped_agents(
    before: Mapping[ProjectId, ProjectView], now: Mapping[ProjectId, ProjectView]
) -> Iterator[Stop]:
    for project_id, view in now.items():
        if project_id not in before or view.agents is before[project_id].agents:
            continue
        for agent in view.agents.values():
            known = before[project_id].agents.get(agent.id)
            if agent.state != "ACTIVE" and (known is None or known.state == "ACTIVE"):
                why = f"the agent is {agent.state}"
                yield Stop(StopId(agent.id), project_id, "agent", agent.id, why)


def _counts(connection: Connection) -> dict[ProjectId, int]:
    p = tables.projects.c
    return {ProjectId(row.id): row.changes for row in connection.execute(select(p.id, p.changes))}
