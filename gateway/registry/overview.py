"""What happened lately, counted: for people who look at a project, not for deciding."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, case, func, select

from gateway import clock
from gateway.frozen import frozen
from gateway.registry import approvals, budgets
from gateway.store import tables
from gateway.values import Action, Risk

HOURS = 24
_PART_SECONDS = 300
"""What is counted at a time, of an hour; it divides one."""
_SETTLED_SECONDS = 300
"""After so long no gateway writes into a time that is over."""
_t = tables.trace.c


@frozen
class Hour:
    start: str
    """RFC 3339."""
    calls: Mapping[str, int]
    """By action."""

    @property
    def total(self) -> int:
        return sum(self.calls.values())


@frozen
class NearLimit:
    id: str
    scope: str
    target_id: str | None
    window: str
    limit: int
    used: int
    held: int

    @property
    def percent(self) -> int:
        return 100 * (self.used + self.held) // max(1, self.limit)


@frozen
class Summary:
    """The last `HOURS` hours of a project."""

    hours: tuple[Hour, ...]
    calls: int
    refused: int
    risks: Mapping[str, int]
    reasons: Mapping[str, int]
    """Refused calls by reason."""
    policies: Mapping[str, int]
    """Refused calls by the policies that said so."""
    tools: Mapping[str, int]
    agents: Mapping[str, int]
    """By agent id."""
    pending_approvals: int
    changed_tools: int
    near_limit: tuple[NearLimit, ...]


class Counts:
    """Calls of some time, counted."""

    def __init__(self) -> None:
        self.actions: Counter[str] = Counter()
        self.risks: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.policies: Counter[str] = Counter()
        self.tools: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()

    def add(self, row: Any) -> None:
        self.actions[row.decision or Action.DENY.value] += row.calls
        self.risks[row.risk or "unknown"] += row.calls
        if row.reason_code is not None:
            self.reasons[row.reason_code] += row.calls
        for policy in (row.refused_by or "").strip("\n").split("\n"):
            if policy:
                self.policies[policy] += row.calls
        if row.tool is not None:
            self.tools[row.tool] += row.calls
        if row.agent_id is not None:
            self.agents[row.agent_id] += row.calls

    def merge(self, other: "Counts") -> None:
        self.actions.update(other.actions)
        self.risks.update(other.risks)
        self.reasons.update(other.reasons)
        self.policies.update(other.policies)
        self.tools.update(other.tools)
        self.agents.update(other.agents)


class PastHours:
    """What was counted of times that are over: the trace is only appended to, so once is enough.

    An hour is counted in parts, or each look at a busy one would count all of it anew.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Counts] = {}

    def counts(self, connection: Connection, project_id: str, start: str, now: str) -> list[Counts]:
        """Of `HOURS` hours, from `start` on."""
        settled = clock.after(now, -_SETTLED_SECONDS)
        found = []
        for number in range(HOURS):
            hour = clock.after(start, number * 3600.0)
            counts = self._known.get((project_id, hour))
            if counts is None:
                counts = self._hour(connection, project_id, hour, settled, now)
                if clock.after(hour, 3600) < settled:
                    self._forget(project_id, hour)
                    self._known[project_id, hour] = counts
            found.append(counts)
        for key in [key for key in self._known if key[1].partition("/")[0] < start]:
            self._known.pop(key, None)
        return found

    def _hour(
        self, connection: Connection, project_id: str, hour: str, settled: str, now: str
    ) -> Counts:
        if clock.after(hour, 3600) < settled and (project_id, _part(hour, 0)) not in self._known:
            return _counted(connection, project_id, hour, clock.after(hour, 3600))
        counts = Counts()
        for number in range(3600 // _PART_SECONDS):
            begin = clock.after(hour, number * _PART_SECONDS)
            if begin > now:
                break
            part = self._known.get((project_id, _part(hour, number)))
            if part is None:
                end = clock.after(begin, _PART_SECONDS)
                part = _counted(connection, project_id, begin, end)
                if end < settled:
                    self._known[project_id, _part(hour, number)] = part
            counts.merge(part)
        return counts

    def _forget(self, project_id: str, hour: str) -> None:
        for number in range(3600 // _PART_SECONDS):
            self._known.pop((project_id, _part(hour, number)), None)


def _part(hour: str, number: int) -> str:
    return f"{hour}/{number}"


def summary(connection: Connection, past: PastHours, project_id: str, now: str) -> Summary:
    start = clock.after(now[:13] + ":00:00.000000Z", -(HOURS - 1) * 3600)
    hours = past.counts(connection, project_id, start, now)
    day = Counts()
    for counts in hours:
        day.merge(counts)
    return Summary(
        hours=_hours(hours, start),
        calls=sum(day.risks.values()),
        refused=sum(day.reasons.values()),
        risks={risk.value: day.risks[risk.value] for risk in Risk} | _unknown(day.risks),
        reasons=dict(day.reasons.most_common(8)),
        policies=dict(day.policies.most_common(8)),
        tools=dict(day.tools.most_common(8)),
        agents=dict(day.agents.most_common(8)),
        pending_approvals=approvals.pending(connection, project_id, now),
        changed_tools=_changed_tools(connection, project_id),
        near_limit=_near_limit(connection, project_id, now),
    )


def _counted(connection: Connection, project_id: str, start: str, end: str) -> Counts:
    """One walk over the index; everything else is folded from its few groups."""
    refused_by = case((_t.reason_code.is_not(None), _t.policies)).label("refused_by")
    named = (_t.decision, _t.risk, _t.reason_code, _t.tool, _t.agent_id, refused_by)
    query = (
        select(*named, func.count().label("calls"))
        .where(_t.project_id == project_id, _t.ts >= start, _t.ts < end, _t.kind == "decision")
        .group_by(*named)
    )
    counts = Counts()
    for row in connection.execute(query):
        counts.add(row)
    return counts


def _hours(counted: Sequence[Counts], start: str) -> tuple[Hour, ...]:
    first = clock.parse(start)
    found = []
    for number, counts in enumerate(counted):
        label = (first + timedelta(hours=number)).strftime("%Y-%m-%dT%H")
        found.append(Hour(f"{label}:00:00Z", {a.value: counts.actions[a.value] for a in Action}))
    return tuple(found)


def _unknown(risks: Counter[str]) -> dict[str, int]:
    return {"unknown": risks["unknown"]} if risks["unknown"] else {}


def _changed_tools(connection: Connection, project_id: str) -> int:
    t = tables.tools.c
    query = select(func.count()).where(
        t.project_id == project_id, t.pin.in_(("CHANGED", "SUSPECT"))
    )
    return connection.execute(query).scalar_one()


def _near_limit(connection: Connection, project_id: str, now: str) -> tuple[NearLimit, ...]:
    b = tables.budgets.c
    found = []
    for row in connection.execute(select(tables.budgets).where(b.project_id == project_id)):
        used, held = budgets.spent(connection, row, now)
        if (used + held) * 100 >= row.limit * row.warn_at:
            found.append(
                NearLimit(row.id, row.scope, row.target_id, row.window, row.limit, used, held)
            )
    return tuple(sorted(found, key=lambda one: -one.percent))
