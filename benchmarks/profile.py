"""Where the processor time of a tool call goes, with everything on, and what the next limit is.

    python -m benchmarks.profile [--seconds 4] [--connections 32] [--json]

A gateway takes calls twice: as it is, its processes measured from outside, and with a stopwatch in
each step (`benchmarks.stopwatch`). Processor time is what is told, not the clock: a busy machine
changes it less. Read the sums as bounds: no machine answers more calls than its cores have time
for, and no gateway more than one core has time for its Python.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stopwatch
from benchmarks.calls import Subject, free_port, gateway, wrk
from benchmarks.processes import own_seconds
from benchmarks.upstream import HEADERS, nginx

Counted = Mapping[str, list[int]]
"""Nanoseconds and entries, by step."""
WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Step:
    """Microseconds, and how often it was entered, a call."""

    name: str
    us: float
    times: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Of one run; ``processes`` are microseconds a call by the name of each program."""

    connections: int
    calls: int
    failed: int
    cores: int
    processes: Mapping[str, float]
    steps: tuple[Step, ...]
    stopwatch_us: float
    """What measuring the steps itself took of the gateway's time a call."""

    @property
    def bound_by_cores(self) -> float:
        """Calls a second that all cores together have time for, the client's work included."""
        return self.cores * 1e6 / sum(self.processes.values())

    @property
    def bound_by_python(self) -> float:
        """Calls a second that one core has time for in the gateway."""
        return 1e6 / self.processes["gateway"]


def run(seconds: int, connections: int, folder: Path) -> Profile:
    port, file = free_port(), folder / "steps"
    with ExitStack() as stack:
        upstream = stack.enter_context(nginx(port))
        subject = stack.enter_context(
            gateway(
                folder / "data",
                upstream,
                rules=20,
                module="benchmarks.stopwatch",
                environment={stopwatch.FILE: str(file)},
            )
        )
        _load(subject, connections, WARM_UP_SECONDS)
        calls, failed, processes = _processes(subject, connections, seconds)
        _counted(subject, file)
        _load(subject, connections, WARM_UP_SECONDS)
        before, began = _counted(subject, file), _of(subject)["gateway"]
        _load(subject, connections, seconds)
        after, ended = _counted(subject, file), _of(subject)["gateway"]
    steps = steps_between(before, after)
    entered = after[stopwatch.CALL][1] - before[stopwatch.CALL][1]
    watched_us = (ended - began) * 1e6 / entered
    return Profile(
        connections,
        calls,
        failed,
        os.cpu_count() or 1,
        processes,
        steps,
        watched_us - processes["gateway"],
    )


def steps_between(before: Counted, after: Counted) -> tuple[Step, ...]:
    """What one call spent in each step, the dearest first."""
    calls = after[stopwatch.CALL][1] - before[stopwatch.CALL][1]
    steps = []
    for name, (spent, entered) in after.items():
        spent_before, entered_before = before.get(name, [0, 0])
        us = (spent - spent_before) / 1000 / calls
        steps.append(Step(name, us, (entered - entered_before) / calls))
    return tuple(sorted(steps, key=lambda step: -step.us))


def _load(subject: Subject, connections: int, seconds: int) -> tuple[int, int]:
    """Calls, and those of them that failed."""
    keyed = {**HEADERS, "Authorization": f"Bearer {subject.key}"}
    row = wrk(subject.url, keyed, connections, seconds, "everything on")
    return round(row.calls * seconds), row.failed


def _of(subject: Subject) -> dict[str, float]:
    """Processor seconds of the gateway and of its OPA."""
    spent = own_seconds(subject.pid)
    opa = spent.pop("opa", 0.0)
    return {"gateway": sum(spent.values()), "opa": opa}


def _processes(
    subject: Subject, connections: int, seconds: int
) -> tuple[int, int, dict[str, float]]:
    def spent() -> dict[str, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            **_of(subject),
            "upstream": own_seconds(os.getpid()).get("nginx", 0.0),
            "load": children.ru_utime + children.ru_stime,
        }

    before = spent()
    calls, failed = _load(subject, connections, seconds)
    after = spent()
    return calls, failed, {name: (after[name] - before[name]) * 1e6 / calls for name in before}


def _counted(subject: Subject, file: Path) -> Counted:
    """What the stopwatch has counted so far."""
    file.unlink(missing_ok=True)
    os.kill(subject.pid, signal.SIGUSR1)
    for _ in range(3000):
        if file.exists():
            counted: Counted = json.loads(file.read_text())
            return counted
        time.sleep(0.01)
    raise RuntimeError("the gateway did not say what its steps took")


def report(profile: Profile) -> str:
    lines = [f"everything on, {profile.connections} connections: {profile.calls} calls"]
    lines[0] += f", {profile.failed} failed"
    lines += ["", f"{'processor time a call':34} {'µs':>8}"]
    lines += [f"  {name:32} {us:>8.0f}" for name, us in profile.processes.items()]
    lines += [f"  {'together':32} {sum(profile.processes.values()):>8.0f}"]
    total = sum(step.us for step in profile.steps)
    lines += ["", f"{'of the gateway, by step':34} {'µs':>8} {'share':>7} {'times':>7}"]
    lines += [
        f"  {step.name:32} {step.us:>8.1f} {step.us / total:>7.1%} {step.times:>7.2f}"
        for step in profile.steps
    ]
    lines += [f"  {'measuring them':32} {profile.stopwatch_us:>8.1f}", ""]
    lines += [
        f"{profile.cores} cores have time for {profile.bound_by_cores:,.0f} calls/s,"
        f" one core for {profile.bound_by_python:,.0f} of them in the gateway's Python:",
        f"the next limit is {next_limit(profile)}",
    ]
    return "\n".join(lines)


def next_limit(profile: Profile) -> str:
    dearest = max(profile.processes, key=lambda name: profile.processes[name])
    if profile.bound_by_python < profile.bound_by_cores:
        return f"the gateway's one core; in it: {profile.steps[0].name}"
    return f"the cores together; most of their time is taken by: {dearest}"


def as_json(profile: Profile) -> str:
    document = {
        **{name: getattr(profile, name) for name in Profile.__slots__},
        "steps": [{name: getattr(step, name) for name in Step.__slots__} for step in profile.steps],
        "bound_by_cores": profile.bound_by_cores,
        "bound_by_python": profile.bound_by_python,
        "next_limit": next_limit(profile),
    }
    return json.dumps(document)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for program in ("wrk", "nginx"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: install your system's package of it")
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        profile = run(given.seconds, given.connections, Path(folder))
    print(as_json(profile) if given.json else report(profile))


if __name__ == "__main__":
    main()
