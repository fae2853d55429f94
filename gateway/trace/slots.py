"""Slots: each process that writes holds one by a lease, and has its log to itself.

A lease runs out by the clock, and a clock may be wrong: what keeps a process that lost its lease
from writing is the slot's epoch. It goes up with each new holder, and every transaction compares
it with the one that its process was given, under a lock that lasts until the commit.
"""

from collections.abc import Callable

from sqlalchemy import Connection, Row, Table, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.clock import after
from gateway.frozen import frozen
from gateway.store import tables
from gateway.store.rows import run
from gateway.store.writer import WriterStopped

LEASE_SECONDS = 15.0
RENEW_SECONDS = 4.0
NOBODY = ""
"""The holder of a slot that was given back."""
_ATTEMPTS = 20

_s = tables.log_slots.c


class SlotLost(WriterStopped):
    """Another process holds the slot now: this one may write nothing more, and has to end."""


@frozen
class Slot:
    """Held by this process since ``epoch``."""

    number: int
    epoch: int
    holder: str
    sole: bool
    """No other process can have the database open; the lease need not be prolonged."""
    former: str = NOBODY
    """Whoever held it before and did not give it back: what it left open is to be settled."""


def take(connection: Connection, holder: str, now: str, *, sole: bool = False) -> Slot:
    """Take a slot: the one that this holder had, else one that lapsed, else a new one.

    ``holder`` names an installation, of which only one process runs at a time; ``sole`` says the
    same of the whole database. A lapsed slot whose former holder sits in an open transaction is
    passed over.
    """
    query = select(tables.log_slots).order_by(_s.slot).with_for_update(skip_locked=True)
    rows = connection.execute(query).all()
    ours = (row for row in rows if sole or row.holder == holder)
    row = next(ours, None) or next((row for row in rows if row.until <= now), None)
    if row is not None:
        return _retake(connection, row, holder, now, sole=sole)
    number = numbered(
        connection,
        tables.log_slots,
        "slot",
        lambda _: {"holder": holder, "epoch": 1, "until": after(now, LEASE_SECONDS)},
    )
    return Slot(number, 1, holder, sole)


def take_lapsed(connection: Connection, own: Slot, now: str) -> Slot | None:
    """Take a slot whose holder died, to settle what it left open; None where there is none."""
    others = select(tables.log_slots).where(_s.slot != own.number, _s.holder != NOBODY)
    lapsed = others.where(_s.until <= now).limit(1).with_for_update(skip_locked=True)
    row = connection.execute(lapsed).first()
    return None if row is None else _retake(connection, row, own.holder, now, sole=False)


def others(connection: Connection, own: Slot, now: str) -> int:
    """How many other processes have the database open, as far as their leases say."""
    held = (_s.slot != own.number, _s.holder != NOBODY, _s.until > now)
    return connection.execute(select(func.count()).where(*held)).scalar_one()


def _retake(
    connection: Connection, row: Row[tuple[object, ...]], holder: str, now: str, *, sole: bool
) -> Slot:
    epoch = row.epoch + 1
    connection.execute(
        update(tables.log_slots)
        .where(_s.slot == row.slot)
        .values(holder=holder, epoch=epoch, until=after(now, LEASE_SECONDS))
    )
    former = NOBODY if sole or row.holder == holder else row.holder
    return Slot(row.slot, epoch, holder, sole, former)


def renew(connection: Connection, slot: Slot, now: str) -> None:
    """Prolong the lease. Raises `SlotLost`."""
    mine = update(tables.log_slots).where(_s.slot == slot.number, _s.epoch == slot.epoch)
    if connection.execute(mine.values(until=after(now, LEASE_SECONDS))).rowcount != 1:
        raise _lost(slot)


def check(connection: Connection, slot: Slot) -> None:
    """Before anything else in a transaction that writes. Raises `SlotLost`.

    Where several processes write, the row stays locked: nobody takes the slot before the commit.
    """
    shared = "" if connection.dialect.name == "sqlite" else " FOR SHARE"
    found = run(connection, f"SELECT epoch FROM log_slots WHERE slot = ?{shared}", (slot.number,))
    if not found or found[0][0] != slot.epoch:
        raise _lost(slot)


def give(connection: Connection, slot: Slot) -> None:
    """Give the slot back at the end: whoever starts next may have it at once."""
    mine = update(tables.log_slots).where(_s.slot == slot.number, _s.epoch == slot.epoch)
    connection.execute(mine.values(holder=NOBODY, until=""))


def numbered(
    connection: Connection, table: Table, column: str, values: Callable[[int], dict[str, object]]
) -> int:
    """Insert a row under the next free number, also while others do the same."""
    key = table.c[column]
    for _ in range(_ATTEMPTS):
        last = connection.execute(select(func.max(key))).scalar()
        number = 0 if last is None else int(last) + 1
        try:
            with connection.begin_nested():
                connection.execute(insert(table).values({column: number} | values(number)))
        except IntegrityError:
            continue  # somebody else's by now
        return number
    raise SlotLost(f"no free number in {table.name}: too many gateways start at once; try again")


def _lost(slot: Slot) -> SlotLost:
    return SlotLost(
        f"this gateway's log slot {slot.number} was taken over by another gateway, because its "
        "lease ran out; start it again, and it takes a free one"
    )
