"""The overview: what agents do now, and whether the gateway can do its part."""

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from starlette.responses import Response

from gateway.api.anchors import AnchorsOut
from gateway.dashboard.names import names_of, policies_of
from gateway.dashboard.page import Page, PageRoute
from gateway.frozen import frozen
from gateway.registry.overview import Hour, Summary, summary
from gateway.telemetry.counters import Counters
from gateway.values import Action

_TONES = {"ALLOW": "green", "LOG_ONLY": "azure", "REQUIRE_APPROVAL": "orange", "DENY": "red"}
_RISK_TONES = {"LOW": "green", "MEDIUM": "azure", "HIGH": "orange", "CRITICAL": "red"}
_LEFT, _WIDTH, _TOP, _HEIGHT = 40, 920, 10, 184


@frozen
class Number:
    label: str
    value: str
    note: str
    href: str
    tone: Literal["", "orange", "red"] = ""


@frozen
class Panel:
    title: str
    counts: Mapping[str, int]
    total: int
    none: str
    href: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    tones: Mapping[str, str] = field(default_factory=dict)


@frozen
class Time:
    """How long a step of calls took in this process, in microseconds."""

    step: str
    p50: int | None
    p99: int | None


@frozen
class Bar:
    x: float
    y: float
    width: float
    height: float
    tone: str
    title: str


@frozen
class Mark:
    label: str = ""
    text: str = ""
    time: str = ""
    x: float = 0
    y: float = 0


@frozen
class Chart:
    bars: tuple[Bar, ...]
    lines: tuple[Mark, ...]
    labels: tuple[Mark, ...]


async def show(page: Page) -> Response:
    if not page.desk.may("GET", "/traces"):
        return page.to("/approvals")
    registry = page.context.api.registry
    project_id, now = page.person.project_id, registry.clock.now()
    past = page.context.past_hours
    found = await registry.read(lambda c: summary(c, past, project_id, now))
    names = names_of(page)
    readiness = await page.context.api.readiness()
    policy = page.context.api.policy_status()
    return page.draw(
        "overview.html",
        title="Overview",
        summary=found,
        numbers=_numbers(found, readiness.checks),
        actions=list(Action),
        tones=_TONES,
        chart=chart(found.hours),
        panels=_panels(found, names, policies_of(page)),
        names=names,
        checks=readiness.checks,
        policy=policy,
        times=_times(page.context.counters),
        anchors=await page.desk.read("/anchors", AnchorsOut, limit=1),
    )


def _numbers(found: Summary, checks: Mapping[str, str]) -> list[Number]:
    base = "/dashboard"
    broken = [name for name, state in checks.items() if state != "ok"]
    share = f"{100 * found.refused // max(1, found.calls)} % of calls"
    waiting, changed = found.pending_approvals, found.changed_tools
    return [
        Number("Calls", f"{found.calls:,}", "last 24 hours", f"{base}/traces?time_range=24h"),
        Number("Refused", f"{found.refused:,}", share, f"{base}/traces?decision=BLOCKED"),
        Number(
            "Approvals",
            str(waiting),
            "wait for a person",
            f"{base}/approvals",
            "orange" if waiting else "",
        ),
        Number(
            "Tools changed",
            str(changed),
            "held back until accepted",
            f"{base}/servers",
            "red" if changed else "",
        ),
        Number(
            "Budgets",
            str(len(found.near_limit)),
            "near their limit",
            f"{base}/budgets",
            "orange" if found.near_limit else "",
        ),
        Number(
            "Health",
            "attention" if broken else "good",
            ", ".join(broken) or "everything answers",
            f"{base}/policies",
            "red" if broken else "",
        ),
    ]


def _times(counters: Counters) -> list[Time]:
    named = {
        "policy": "Policy decides",
        "admission": "Admission, with its record",
        "forward": "The tool answers",
        "call": "All of the call",
    }
    return [
        Time(named[step], _micro(took.quantile(0.5)), _micro(took.quantile(0.99)))
        for step, took in counters.steps().items()
    ]


def _micro(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _panels(found: Summary, names: Mapping[str, str], policies: Mapping[str, str]) -> list[Panel]:
    traces = "/dashboard/traces?"
    return [
        Panel(
            "Refusals by policy",
            found.policies,
            max(found.policies.values(), default=0),
            "No policy refused a call.",
            f"{traces}decision=BLOCKED&policy_id=",
            policies,
        ),
        Panel(
            "Refusals by reason",
            found.reasons,
            max(found.reasons.values(), default=0),
            "No call was refused.",
            names={reason: reason.replace("_", " ") for reason in found.reasons},
        ),
        Panel(
            "Risk of calls",
            found.risks,
            found.calls,
            "No calls.",
            f"{traces}risk=",
            tones=_RISK_TONES,
        ),
        Panel("Top tools", found.tools, found.calls, "No calls.", f"{traces}tool="),
        Panel("Top agents", found.agents, found.calls, "No calls.", f"{traces}agent_id=", names),
    ]


def chart(hours: tuple[Hour, ...]) -> Chart:
    """Stacked bars, an hour each, and a scale that ends on a round number."""
    top = _round_up(max((hour.total for hour in hours), default=0))
    slot = _WIDTH / max(1, len(hours))
    bars: list[Bar] = []
    labels: list[Mark] = []
    for number, hour in enumerate(hours):
        x, y = _LEFT + number * slot, float(_TOP + _HEIGHT)
        for action, count in hour.calls.items():
            height = _HEIGHT * count / top
            if not count:
                continue
            y -= height
            title = f"{hour.start[11:16]} UTC: {count:,} {action.replace('_', ' ').lower()}"
            bars.append(
                Bar(
                    round(x + slot * 0.12, 1),
                    round(y, 1),
                    round(slot * 0.76, 1),
                    round(max(height, 1), 1),
                    _TONES[action],
                    title,
                )
            )
        if number % 4 == 0:
            text = hour.start[11:16]
            labels.append(Mark(text=text, time=hour.start, x=round(x + slot / 2, 1)))
    lines = tuple(
        Mark(label=f"{top * part // 4:,}", y=round(_TOP + _HEIGHT * (1 - part / 4), 1))
        for part in range(5)
    )
    return Chart(tuple(bars), lines, tuple(labels))


def _round_up(value: int) -> int:
    """The next of 4, 8, 20, 40, 80, 200, …: a quarter of each is a whole number."""
    step = 4
    while step < value:
        step = step * 5 // 2 if str(step).startswith("8") else step * 2
    return step


PAGES = (PageRoute("GET", "", show),)
