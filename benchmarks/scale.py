"""What grows when a deployment grows: one dimension at a time, beside a base point.

    python -m benchmarks.scale [--only traces,agents] [--quick] [--folder DIR] [--json]

The base is one gateway on SQLite with 100 agents, 10 servers of 10 tools, 20 rules, 20 policies in
Rego, and an empty log. Each other point changes one of these; `replicas` are gateways on one
PostgreSQL database, beside one of them. A point and its base run side by side and are called in
turn by 32 connections that go through all agents and servers. Of each number but megabytes and
bytes its ratio to the base of the same minutes is told too. The processor's time is what can be
compared on a machine that others use: `us a call` is that of the gateway and its OPA.

Needs wrk, nginx, opa, for replicas PostgreSQL, and disk: 1.1 GB a million records. With --folder
what was filled is kept there and used again.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.calls import free_port
from benchmarks.deployment import Deployment, Running, Size, Start, Work, prepared, running
from benchmarks.upstream import nginx
from tests.postgresql import DurableServer

BASE = Size()
DIMENSIONS = {
    "agents": (10, 1_000, 10_000),
    "servers": (1, 100, 500),
    "rules": (200, 2_000),
    "policies": (200, 2_000),
    "traces": (100_000, 1_000_000, 10_000_000),
    "replicas": (2, 4),
}
QUICK = {
    **{"agents": (1_000,), "servers": (50,), "rules": (500,), "policies": (100,)},
    **{"traces": (50_000,), "replicas": (2,)},
}
ROUNDS = 3
BYTES_A_RECORD = 1_100
_HEADINGS = (
    *("calls/s", "x", "p50 ms", "p99 ms", "us/call", "x", "MB", "OPA MB"),
    *("start s", "cpu s", "change ms", "x", "list ms", "x", "page ms", "x", "page", "B/call"),
)


@dataclass(frozen=True, slots=True)
class Called:
    """Medians of several rounds. ``used``: microseconds of the processor a call."""

    calls: float
    p50: float
    p99: float
    used: float
    failed: int


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured of a deployment; a work's ratios are those of its processor time."""

    what: str
    called: Called
    memory: float
    opa_memory: float
    start: Start
    change: Work
    listing: Work
    page: Work
    bytes_a_call: float = 0.0


class LargeDisk(Exception):
    """There is not enough room for the records."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(DIMENSIONS), help="dimensions, by comma")
    parser.add_argument("--quick", action="store_true", help="small points alone")
    parser.add_argument("--seconds", type=int, default=4, help="of each of three rounds")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one without it")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sizes = QUICK if given.quick else DIMENSIONS
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(sizes):
        parser.error(f"no dimension {', '.join(sorted(unknown))}; there are {', '.join(sizes)}")
    for program in ("wrk", "nginx", "opa"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: install your system's package of it")
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = given.folder or Path(temporary)
        if not given.json:
            print(heading())
        first: dict[str, Point] = {}
        for base, point in measured(folder, {name: sizes[name] for name in wanted}, given.seconds):
            if base.what not in first and not given.json:
                print(line(base, base), flush=True)
            # The base's log grows while it is called: its pages are compared as they were first.
            fresh = first.setdefault(base.what, base)
            base = replace(base, change=fresh.change, listing=fresh.listing, page=fresh.page)
            told = json.dumps([asdict(base), asdict(point)]) if given.json else line(point, base)
            print(told, flush=True)


def measured(
    folder: Path, sizes: dict[str, Sequence[int]], seconds: int
) -> Iterator[tuple[Point, Point]]:
    """Each point with its base, as it was beside this point."""
    with nginx(_port(folder)) as upstream, ExitStack() as stack:
        own = {name: values for name, values in sizes.items() if name != "replicas"}
        if own:
            made = prepared(folder / "base", BASE, upstream)
            with running(made) as base:
                for name, values in own.items():
                    for value in values:
                        yield beside(base, _alone(folder, name, value, upstream), seconds)
        if "replicas" in sizes:
            server = DurableServer()
            stack.callback(server.close)
            databases = [stack.enter_context(server.database()) for _ in sizes["replicas"]]
            url = stack.enter_context(server.database())
            made = prepared(folder / "one", BASE, upstream, url)
            with running(made) as base:
                for value, url in zip(sizes["replicas"], databases, strict=True):
                    size = replace(BASE, replicas=value)
                    several = prepared(folder / f"replicas-{value}", size, upstream, url)
                    yield beside(base, several, seconds)


def _port(folder: Path) -> int:
    """Of the server behind the gateways: those that were filled before know where it was."""
    file = folder / "upstream-port"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(str(free_port()))
    return int(file.read_text())


def _alone(folder: Path, name: str, value: int, upstream: str) -> Deployment:
    size = Size(**{**asdict(BASE), name: value})
    place = folder / f"{name}-{value}"
    room = shutil.disk_usage(folder.parent).free
    if size.traces * BYTES_A_RECORD > room * 0.8 and not place.exists():
        raise LargeDisk(f"{value:,} records take {size.traces * BYTES_A_RECORD / 1e9:.0f} GB")
    return prepared(place, size, upstream)


def beside(base: Running, made: Deployment, seconds: int) -> tuple[Point, Point]:
    """Measure the deployment and, in turn with it, its base."""
    before = made.stored()
    with running(made) as other:
        pair = (base, other)
        for one in pair:
            one.call(1)  # warms up
        rounds: tuple[list[Called], list[Called]] = ([], [])
        for _ in range(ROUNDS):
            for one, taken in zip(pair, rounds, strict=True):
                row, used = one.call(seconds)
                taken.append(Called(row.calls, row.p50, row.p99, used, row.failed))
        points = [_point(one, taken) for one, taken in zip(pair, rounds, strict=True)]
    return points[0], replace(points[1], bytes_a_call=_bytes_a_call(before, made.stored()))


def _point(one: Running, rounds: Sequence[Called]) -> Point:
    memory, opa = one.memory()
    works = one.changes(), one.lists(), one.slowest_page()
    shared = " on PostgreSQL" if one.deployment.database else ""
    return Point(
        named(one.deployment.size) + shared, median(rounds), memory, opa, one.start, *works
    )


def median(rounds: Sequence[Called]) -> Called:
    return Called(
        statistics.median(one.calls for one in rounds),
        statistics.median(one.p50 for one in rounds),
        statistics.median(one.p99 for one in rounds),
        statistics.median(one.used for one in rounds),
        sum(one.failed for one in rounds),
    )


def _bytes_a_call(before: tuple[int, int], after: tuple[int, int]) -> float:
    """A call leaves two records."""
    return (after[1] - before[1]) / max(1, after[0] - before[0]) * 2


def named(size: Size) -> str:
    """What is not as in the base."""
    ours, base = asdict(size), asdict(BASE)
    return ", ".join(f"{ours[n]:,} {n}" for n in ours if ours[n] != base[n]) or "base"


def heading() -> str:
    return "| " + " | ".join(("", *_HEADINGS)) + " |\n" + "|---" * (len(_HEADINGS) + 1) + "|"


def line(point: Point, base: Point) -> str:
    """A line of the table, in Markdown."""

    def times(ours: float, its: float) -> str:
        return f"{ours / its:.2f}" if its else ""

    def of(work: Work, its: Work) -> tuple[str, str]:
        return f"{work.processor:.1f}", times(work.processor, its.processor)

    called, beside = point.called, base.called
    cells = (
        *(point.what, f"{called.calls:,.0f}", times(called.calls, beside.calls)),
        *(f"{called.p50:.1f}", f"{called.p99:.1f}"),
        *(f"{called.used:.0f}", times(called.used, beside.used)),
        *(f"{point.memory:.0f}", f"{point.opa_memory:.0f}"),
        *(f"{point.start.seconds:.1f}", f"{point.start.processor:.1f}"),
        *of(point.change, base.change),
        *of(point.listing, base.listing),
        *of(point.page, base.page),
        *(point.page.what, f"{point.bytes_a_call:,.0f}"),
    )
    told = "| " + " | ".join(cells) + " |"
    return f"{told} {called.failed} failed" if called.failed else told


if __name__ == "__main__":
    main()
