"""Keeps this process's log slot, and settles what a process that died left open in its own.

Where one process has the database to itself there is nothing to keep.
"""

import asyncio
from dataclasses import dataclass, field

import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from gateway.data_dir.state import State
from gateway.settlement import Settlement
from gateway.store import tables
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.trace import heads, slots
from gateway.trace.checkpoint import Checkpoints
from gateway.trace.log import Log
from gateway.trace.slots import SlotLost

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Tenure:
    """Of the slot that ``state`` holds."""

    state: State
    _named: frozenset[str] = field(default=frozenset())

    async def run(self) -> None:
        """Until cancelled. Raises `SlotLost` when another process has the slot: nothing can be
        written from here on, so the gateway has to end.
        """
        if self.state.log.slot.sole:
            await asyncio.get_running_loop().create_future()
        while True:
            try:
                await self.once()
            except SlotLost:
                raise
            except (SQLAlchemyError, WriterStopped) as fault:
                _log.error("the log slot's lease is not prolonged", why=fault_text(fault))
            await asyncio.sleep(slots.RENEW_SECONDS)

    async def once(self) -> None:
        """Prolong the lease, name logs that are new, settle for one that died."""
        change = self.state.writer.change
        await change(lambda c: slots.renew(c, self.state.log.slot, self.state.log.now))
        self._named = await change(self._name_all)
        origin = await change(lambda c: settle_lapsed(c, self.state))
        if origin:
            _log.warning("settled what a gateway that died left open", log=origin)

    def _name_all(self, connection: Connection) -> frozenset[str]:
        log = self.state.log
        found = frozenset(connection.execute(select(tables.logs.c.origin)).scalars())
        if found != (self._named or {log.origin}):
            log.append(connection, heads.drafts(connection, log))
        return found


def settle_lapsed(connection: Connection, state: State) -> str:
    """Take over one slot whose lease ran out, in this transaction alone: its calls of unknown
    outcome are settled, its head is signed, and it is free for whoever starts next.

    Returns the log's name; empty when all slots are held or free.
    """
    slot = slots.take_lapsed(connection, state.log.slot, state.log.now)
    if slot is None:
        return ""
    # What it appends is durable with the transaction, and read anew by the slot's next holder.
    log = Log(state.keyring, state.clock)
    log.load(connection, "", slot)
    log.begin(connection)
    checkpoints = Checkpoints(log, state.keyring, None)
    checkpoints.open(connection)
    Settlement(state.writer, log, state.ledger, state.grants).recover(connection)
    checkpoints.make(connection)
    slots.give(connection, slot)
    return log.head.origin
