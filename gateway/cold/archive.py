"""Has the log's old stretches moved, round after round, by one gateway at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TypeVar

import anyio.to_thread
import structlog
from anyio import sleep
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import after
from gateway.cold import moving
from gateway.cold.moving import Batch, Stretch
from gateway.cold.objects import ColdFault
from gateway.cold.reading import ColdStore
from gateway.store import leases
from gateway.store.leases import LeaseLost
from gateway.store.writer import Writer, WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.trace.merkle import TILE_WIDTH

EVERY_SECONDS = 600.0
LEASE = "cold"
_LEASE_SECONDS = 300.0
"""Longer than a batch takes against a storage that answers slowly."""

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""``(moved, of)``, in records."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Archive:
    """One gateway's part in it. `run` is for a gateway that serves, `round` for a command."""

    store: ColdStore
    writer: Writer
    reader: Engine
    now: Callable[[], str]
    after_days: int
    sinks: Sequence[str]
    holder: str
    """Names an installation, of which one process runs: after a crash it has its lease back."""
    fault: str = ""
    """Why the last round ended early; readiness says so."""
    _ending: Event = field(default_factory=Event)

    async def run(self) -> None:
        """Until cancelled. What a round does not bring to its end the next one does."""
        try:
            while True:
                await anyio.to_thread.run_sync(self._one_round, abandon_on_cancel=True)
                await sleep(EVERY_SECONDS)
        finally:
            self._ending.set()

    def _one_round(self) -> None:
        before, self.fault = self.fault, ""
        try:
            moved = self.round()
        except (LeaseLost, WriterStopped):
            return  # another gateway goes on, or this one ends
        except (ColdFault, SQLAlchemyError) as fault:
            self.fault = str(fault) if isinstance(fault, ColdFault) else fault_text(fault)
            if self.fault != before:
                _log.error("records stay in the database", why=self.fault)
            return
        if moved:
            _log.info("records are in cold storage", records=moved, place=self.store.objects.place)

    def warnings(self) -> dict[str, str]:
        """For readiness; empty when all is well."""
        return {"cold storage": self.fault} if self.fault else {}

    def round(self, progress: Progress = lambda moved, of: None) -> int:
        """Move all that can go; returns how many records did. Blocks.

        Raises `ColdFault`, SQLAlchemyError, `WriterStopped`, and `LeaseLost` where another gateway
        is at it.
        """
        if not self._change(self._take):
            raise LeaseLost("another gateway moves records to cold storage now")
        try:
            found = self.waiting()
            total = sum(one.end - one.first for one in found) * TILE_WIDTH
            moved = 0
            for stretch in found:
                for count in self._stretch(stretch):
                    moved += count
                    progress(moved, total)
            return moved
        finally:
            self._change(lambda connection: leases.give(connection, LEASE, self.holder))

    def waiting(self) -> list[Stretch]:
        """What can go now."""
        before = after(self.now(), -self.after_days * 86_400)
        with self.reader.connect() as connection, connection.begin():
            return moving.stretches(connection, before, self.sinks)

    def _stretch(self, stretch: Stretch) -> Iterator[int]:
        """Yields the records of each tile that is gone from the database."""
        batch = Batch(self.reader, self.store.objects, stretch)
        for first in range(stretch.first, stretch.end, moving.TILES_AT_ONCE):
            self._change(self._prolong)
            for tile in batch.carry(first, min(stretch.end, first + moving.TILES_AT_ONCE)):
                if self._ending.is_set():
                    return
                # A transaction a tile: calls wait for the writer, and this is a few milliseconds.
                self._change(partial(moving.drop, tile=tile, still=self._still))
                yield TILE_WIDTH
        batch.publish()

    def _change(self, fn: Callable[[Connection], Result]) -> Result:
        return self.writer.change_now(fn)

    def _take(self, connection: Connection) -> bool:
        return leases.take(connection, LEASE, self.holder, self.now(), _LEASE_SECONDS)

    def _prolong(self, connection: Connection) -> None:
        self._still(connection)
        self._take(connection)

    def _still(self, connection: Connection) -> None:
        leases.check(connection, LEASE, self.holder, self.now())
