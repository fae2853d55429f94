"""When each policy was last named by a decision: for people who ask which ones still matter.

The trace is only appended to, so what was counted of the past is kept, and each look adds what has
come since. How far back is known grows by a bounded step a look.
"""

from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

from sqlalchemy import Connection, func, select

from gateway import clock
from gateway.frozen import frozen
from gateway.store import tables

LOOK_BACK_SECONDS = 30 * 86_400
_STEP_SECONDS = 6 * 3600
_LOOK_SECONDS = 0.25
"""Of reading the past, for one look."""
_SETTLED_SECONDS = 300
"""After so long no gateway writes into a time that is over."""
_t = tables.trace.c


@frozen
class Firing:
    last: str
    """RFC 3339."""
    times: int


@frozen
class Fired:
    """By policy, as records name it. Who is not there did not fire since `since`."""

    since: str
    policies: dict[str, Firing]


@dataclass(slots=True)
class _Known:
    since: str
    until: str
    policies: dict[str, Firing] = field(default_factory=dict)


class Firings:
    """What was counted so far, by project; any thread may look."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._door = Lock()

    def look(self, connection: Connection, project_id: str, now: str) -> Fired:
        """All until now, as far back as was looked so far."""
        with self._door:
            known = self._advanced(connection, project_id, now)
            policies = dict(known.policies)
            since, until = known.since, known.until
        _count(connection, project_id, until, clock.after(now, 1), policies)
        return Fired(since, policies)

    def _advanced(self, connection: Connection, project_id: str, now: str) -> _Known:
        settled = clock.after(now, -_SETTLED_SECONDS)
        known = self._known.setdefault(project_id, _Known(settled, settled))
        if known.until < settled:
            _count(connection, project_id, known.until, settled, known.policies)
            known.until = settled
        furthest = max(clock.after(now, -LOOK_BACK_SECONDS), _first(connection, project_id) or now)
        ends = monotonic() + _LOOK_SECONDS
        while known.since > furthest and monotonic() < ends:
            start = clock.after(known.since, -_STEP_SECONDS)
            _count(connection, project_id, start, known.since, known.policies)
            known.since = start
        return known


def _count(
    connection: Connection, project_id: str, start: str, end: str, into: dict[str, Firing]
) -> None:
    query = (
        select(_t.policies, func.max(_t.ts).label("last"), func.count().label("times"))
        .where(
            _t.project_id == project_id,
            _t.ts >= start,
            _t.ts < end,
            _t.kind.in_(("decision", "message")),
            _t.policies.is_not(None),
        )
        .group_by(_t.policies)
    )
    for row in connection.execute(query):
        for policy_id in row.policies.strip("\n").split("\n"):
            before = into.get(policy_id, Firing("", 0))
            into[policy_id] = Firing(max(before.last, row.last), before.times + row.times)


def _first(connection: Connection, project_id: str) -> str | None:
    found: str | None = connection.execute(
        select(func.min(_t.ts)).where(_t.project_id == project_id)
    ).scalar()
    return found
