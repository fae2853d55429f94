"""One backend's outbox: its rows, changed under a lease so that one process anchors a log.

What was signed is on disk before it is sent, so that a crash at any point is followed by the same
bytes again, which is the same transaction.
"""

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine

from gateway.anchors import rows
from gateway.anchors.values import Anchor, Condition, Head, Receipt
from gateway.clock import Clock
from gateway.ids import new_id
from gateway.store import leases
from gateway.store.writer import Writer

LEASE_SECONDS = 15.0

Result = TypeVar("Result")


class Outbox:
    """Every change first checks the lease: who has lost it writes nothing more."""

    def __init__(self, writer: Writer, reader: Engine, clock: Clock, backend: str) -> None:
        self.backend = backend
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._lease = f"anchor:{backend}"
        self._holder = new_id("gw")

    @property
    def now(self) -> str:
        return self._clock.now()

    async def hold(self) -> bool:
        """Take the lease or prolong it; False when another process has it."""
        return await self._writer.change(
            lambda c: leases.take(c, self._lease, self._holder, self.now, LEASE_SECONDS)
        )

    async def let_go(self) -> None:
        await self._writer.change(lambda c: leases.give(c, self._lease, self._holder))

    async def change(self, fn: Callable[[Connection], Result]) -> Result:
        """One transaction. Raises `gateway.store.leases.LeaseLost`."""

        def held(connection: Connection) -> Result:
            leases.check(connection, self._lease, self._holder, self.now)
            return fn(connection)

        return await self._writer.change(held)

    async def read(self, fn: Callable[[Connection], Result]) -> Result:
        def snapshot() -> Result:
            with self._reader.connect() as connection, connection.begin():
                return fn(connection)

        return await anyio.to_thread.run_sync(snapshot)

    async def queue(self, head: Head) -> Anchor:
        return await self.change(lambda c: rows.queue(c, self.backend, head, self.now))

    async def signed(self, anchor: Anchor, sent: rows.Sent) -> None:
        """Durable when this returns: only then may the bytes leave."""
        await self.change(lambda c: rows.signed(c, anchor, sent))

    async def final(self, anchor: Anchor, receipt: Receipt) -> None:
        await self.change(lambda c: rows.final(c, anchor, receipt, self.now))

    async def void(self, anchor: Anchor) -> None:
        await self.change(lambda c: rows.void(c, anchor))

    async def paid(self, tx_hash: str, amount: int) -> None:
        await self.change(lambda c: rows.paid(c, tx_hash, amount, self.now))

    async def transactions(self, anchor: Anchor) -> list[rows.Sent]:
        return await self.read(lambda c: rows.transactions(c, anchor.id))

    async def tell(self, condition: Condition, detail: str) -> None:
        await self._writer.change(
            lambda c: rows.condition(c, self.backend, self.now, condition, detail)
        )
