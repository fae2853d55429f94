"""Leases on what one process does at a time, wherever several share a database."""

from sqlalchemy import Connection, delete, insert, select, update

from gateway.clock import after
from gateway.store import tables

_l = tables.leases.c


class LeaseLost(Exception):
    """Another process holds it now; nothing was written."""


def take(connection: Connection, name: str, holder: str, now: str, seconds: float) -> bool:
    """Take or prolong a lease; False while another holder's has not run out."""
    until = after(now, seconds)
    ours_or_over = (_l.holder == holder) | (_l.until <= now)
    statement = update(tables.leases).where(_l.name == name, ours_or_over)
    if connection.execute(statement.values(holder=holder, until=until)).rowcount:
        return True
    if connection.execute(select(_l.name).where(_l.name == name)).first() is not None:
        return False
    connection.execute(insert(tables.leases).values(name=name, holder=holder, until=until))
    return True


def check(connection: Connection, name: str, holder: str, now: str) -> None:
    """Inside of a transaction that only the holder may make. Raises `LeaseLost`."""
    query = select(_l.holder).where(_l.name == name, _l.until > now)
    if connection.execute(query).scalar() != holder:
        raise LeaseLost(f"the lease on {name} is lost")


def give(connection: Connection, name: str, holder: str) -> None:
    connection.execute(delete(tables.leases).where(_l.name == name, _l.holder == holder))
