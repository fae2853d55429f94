"""The records that name every log of the database, so that none of them can be left out unseen.

A `heads` record is under each head that is anchored: one anchor of one log thereby vouches for
the heads of all. Beside that, each log names the others when there is a new one among them.
"""

from sqlalchemy import Connection, and_, func, select

from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.store import tables
from gateway.trace.log import LOG_ITSELF, Log
from gateway.trace.merkle import EMPTY_ROOT
from gateway.trace.record import Draft

_PER_RECORD = 64
"""Projects that one record names: it has 16 KiB."""

_l = tables.logs.c
_c = tables.checkpoints.c


@frozen
class Newest:
    """What was signed last of a log; size 0 when nothing was."""

    log: int
    origin: str
    size: int
    root: bytes


def newest(connection: Connection) -> list[Newest]:
    """Of every log, oldest first."""
    last = select(_c.log, func.max(_c.size).label("size")).group_by(_c.log).subquery()
    signed = tables.logs.outerjoin(last, last.c.log == _l.log).outerjoin(
        tables.checkpoints, and_(_c.log == _l.log, _c.size == last.c.size)
    )
    query = select(_l.log, _l.origin, _c.size, _c.root).select_from(signed).order_by(_l.log)
    return [
        Newest(row.log, row.origin, row.size or 0, row.root or EMPTY_ROOT)
        for row in connection.execute(query)
    ]


def drafts(connection: Connection, log: Log) -> list[Draft]:
    """Every log with its size and root, and every project's last record in this one."""
    logs = lines(connection, log)
    projects = [
        f"{project_id} {pseq} {leaf.hex()}"
        for project_id, (pseq, leaf) in sorted(log.project_heads().items())
        if project_id != LOG_ITSELF
    ]
    groups = [projects[i : i + _PER_RECORD] for i in range(0, len(projects), _PER_RECORD)]
    return [
        Draft("heads", new_id("evt"), LOG_ITSELF, {"logs": logs, "projects": group})
        for group in groups or [[]]
    ]


def lines(connection: Connection, log: Log) -> list[str]:
    """``<origin> <size> <root>`` of every log: of this one as it is now, of others as signed."""
    own = log.head
    return [
        f"{own.origin} {own.size} {own.root.hex()}"
        if one.log == own.number
        else f"{one.origin} {one.size} {one.root.hex()}"
        for one in newest(connection)
    ]
