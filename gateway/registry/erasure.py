"""Erasing payloads: at once by an administrator, by age by itself; the records stay proven.

What was erased is gone from the database file and its journal too: SQLite overwrites what it
deletes, and the journal is emptied after the commit, on the writing thread, as soon as nobody
reads an older state.
"""

from collections import Counter
from collections.abc import Sequence

import structlog
from sqlalchemy import Connection, delete, select, tuple_, update

from gateway.ids import new_id
from gateway.registry import tasks, traces
from gateway.registry.core import Change
from gateway.registry.faults import Conflict
from gateway.registry.fields import Input, Reason
from gateway.store import tables
from gateway.trace.log import Log
from gateway.trace.record import Draft, Field
from gateway.values import ProjectId

_EXPIRED_AT_ONCE = 5_000
_PATIENCE_MS = 200
_USUAL_PATIENCE_MS = 5_000

_p = tables.payloads.c
_log = structlog.get_logger(__name__)


class Erasing(Input):
    reason: Reason


class Vacated:
    """Empties the journal after a commit that erased; a participant of the writer's transactions.

    See `gateway.store.writer.Participant`.
    """

    def __init__(self) -> None:
        self._erased = False
        self.waiting = False
        """True while erased bytes may still be in the journal."""

    def erased(self) -> None:
        """The running transaction has deleted what must not be found again."""
        self._erased = True

    def begin(self, connection: Connection) -> None:
        self._erased = False

    def mark(self) -> object:
        return self._erased

    def rewind(self, mark: object) -> None:
        self._erased = bool(mark)

    def rolled_back(self) -> None:
        self._erased = False

    def committed(self, connection: Connection) -> None:
        self.waiting = self.waiting or self._erased
        if self.waiting and connection.dialect.name == "sqlite":
            # On the driver: a checkpoint inside a transaction is none.
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
            (busy, _, _) = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            driver.execute(f"PRAGMA busy_timeout={_USUAL_PATIENCE_MS}")
            self.waiting = bool(busy)


def erase(
    change: Change,
    vacated: Vacated,
    trace_id: str,
    reason: str,
    known: Sequence[tuple[int, int]],
) -> int:
    """Delete every payload of a call's records, or of the one record; return how many there were.

    ``known`` are the places of its records, as `traces.get` found them; what has come since is
    found here. What an approver was shown of the call goes too. Raises `Conflict` while an approval
    waits for somebody who must still see it.
    """
    connection = change.connection
    here = traces.in_database(connection, change.project_id, trace_id)
    places = sorted({*known, *((row.log, row.idx) for row in here)})
    _forget_approvals(connection, change.project_id, trace_id)
    fields: list[str] = []
    for log, idx in places:
        gone = delete(tables.payloads).where(_p.log == log, _p.idx == idx)
        for name in connection.execute(gone.returning(_p.field)).scalars():
            fields.append(f"{log}/{idx}/{name}")
    vacated.erased()
    codes: dict[str, Field] = {"trace": trace_id, "fields": sorted(fields)}
    change.record("payload.erased", trace_id, codes=codes, reason=reason)
    return len(fields)


def _forget_approvals(connection: Connection, project_id: str, trace_id: str) -> None:
    a = tables.approvals.c
    mine = (a.project_id == project_id, a.trace_id == trace_id)
    pending = select(a.id).where(*mine, a.state == "PENDING")
    if connection.execute(pending).first() is not None:
        raise Conflict("An approval of this call is pending; decide it first.")
    connection.execute(update(tables.approvals).where(*mine).values(call_sealed=b""))
    tasks.erase(connection, project_id, trace_id)


def expire(connection: Connection, log: Log, vacated: Vacated) -> int:
    """Delete payloads whose time is over, some thousands at once; each project's trail says so.

    When none is left the keys of past months are dropped. Returns how many were deleted.
    """
    now = log.now
    place = (_p.log, _p.idx, _p.field)
    over = select(*place).where(_p.expires_at <= now).limit(_EXPIRED_AT_ONCE)
    gone = delete(tables.payloads).where(tuple_(*place).in_(over)).returning(_p.payload_key)
    keys = connection.execute(gone).scalars().all()
    counts = Counter(key.rpartition("/")[0] for key in keys)
    drafts = [_expired(ProjectId(one), now, "payloads", count=n) for one, n in counts.items()]
    if len(keys) < _EXPIRED_AT_ONCE:
        dropped = log.drop_past_keys(connection)
        drafts += [_expired(project, now, "payload_key", month=month) for project, month in dropped]
    if drafts:
        log.append(connection, drafts)
        vacated.erased()
        _log.info("payloads whose time is over are erased", payloads=len(keys))
    return len(keys)


def _expired(project_id: ProjectId, now: str, subject: str, **what: Field) -> Draft:
    fields: dict[str, Field] = {
        "event": "payload.expired",
        "subject": subject,
        "actor": "gateway",
        "expired_at": now,
        **what,
    }
    return Draft("event", new_id("evt"), project_id, fields)
