"""What happened lately, counted: for people who look at a project, not for deciding."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from gateway import clock
from gateway.frozen import frozen
from gateway.registry import approvals, budgets
from gateway.store import tables
from gateway.values import Action, Risk

HOURS = 24
_MOST_REFUSED = 2000
"""Refused calls of which the policies are counted."""
_SETTLED_SECONDS = 300
"""After so long no gateway writes into an hour that is over."""
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
    """Refused calls by the policies that said so; of the newest `_MOST_REFUSED`."""
    tools: Mapping[str, int]
    agents: Mapping[str, int]
    """By agent id."""
    pending_approvals: int
    changed_tools: int
    near_limit: tuple[NearLimit, ...]


class PastHours:
    """What was counted of hours that are over: the trace is only appended to, so once is enough."""

    def __init__(self) -> None:
        self._hours: dict[tuple[str, str], tuple[Any, ...]] = {}

    def rows(self, connection: Connection, project_id: str, start: str, now: str) -> Iterator[Any]:
        """Calls in groups, from `start` on."""
        hours = [clock.after(start, number * 3600.0) for number in range(HOURS)]
        settled = clock.after(now, -_SETTLED_SECONDS)
        for hour in hours:
            end = clock.after(hour, 3600)
            found = self._hours.get((project_id, hour))
            if found is None:
                found = tuple(_counted(connection, project_id, hour, end))
                if end < settled:
                    self._hours[project_id, hour] = found
            yield from found
        for key in [key for key in self._hours if key[1] < start]:
            self._hours.pop(key, None)


def summary(connection: Connection, past: PastHours, project_id: str, now: str) -> Summary:
    start = clock.after(now[:13] + ":00:00.000000Z", -(HOURS - 1) * 3600)
    folded = _Folded()
    for row in past.rows(connection, project_id, start, now):
        folded.add(row)
    return Summary(
        hours=_hours(folded.hours, start),
        calls=sum(folded.risks.values()),
        refused=sum(folded.reasons.values()),
        risks={risk.value: folded.risks[risk.value] for risk in Risk} | _unknown(folded.risks),
        reasons=dict(folded.reasons.most_common(8)),
        policies=_policies(connection, project_id, start),
        tools=dict(folded.tools.most_common(8)),
        agents=dict(folded.agents.most_common(8)),
        pending_approvals=approvals.pending(connection, project_id, now),
        changed_tools=_changed_tools(connection, project_id),
        near_limit=_near_limit(connection, project_id, now),
    )


class _Folded:
    def __init__(self) -> None:
        self.hours: dict[str, Counter[str]] = {}
        self.risks: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.tools: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()

    def add(self, row: Any) -> None:
        hour = self.hours.setdefault(row.hour, Counter())
        hour[row.decision or Action.DENY.value] += row.calls
        self.risks[row.risk or "unknown"] += row.calls
        if row.reason_code is not None:
            self.reasons[row.reason_code] += row.calls
        if row.tool is not None:
            self.tools[row.tool] += row.calls
        if row.agent_id is not None:
            self.agents[row.agent_id] += row.calls


def _counted(connection: Connection, project_id: str, start: str, end: str) -> list[Any]:
    """One walk over the index; everything else is folded from its few groups."""
    hour = func.substr(_t.ts, 1, 13).label("hour")
    named = (_t.decision, _t.risk, _t.reason_code, _t.tool, _t.agent_id)
    query = (
        select(hour, *named, func.count().label("calls"))
        .where(_t.project_id == project_id, _t.ts >= start, _t.ts < end, _t.kind == "decision")
        .group_by(hour, *named)
    )
    return list(connection.execute(query))


def _hours(counted: Mapping[str, Counter[str]], start: str) -> tuple[Hour, ...]:
    first = clock.parse(start)
    found = []
    for number in range(HOURS):
        label = (first + timedelta(hours=number)).strftime("%Y-%m-%dT%H")
        calls = counted.get(label, Counter())
        found.append(Hour(f"{label}:00:00Z", {a.value: calls[a.value] for a in Action}))
    return tuple(found)


def _unknown(risks: Counter[str]) -> dict[str, int]:
    return {"unknown": risks["unknown"]} if risks["unknown"] else {}


def _policies(connection: Connection, project_id: str, start: str) -> dict[str, int]:
    query = (
        select(_t.policies)
        .where(
            _t.project_id == project_id,
            _t.ts >= start,
            _t.kind == "decision",
            _t.reason_code.is_not(None),
        )
        .order_by(_t.ts.desc())
        .limit(_MOST_REFUSED)
    )
    counted: Counter[str] = Counter()
    for policies in connection.execute(query).scalars():
        counted.update((policies or "").strip("\n").split("\n"))
    counted.pop("", None)
    return dict(counted.most_common(8))


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
