"""The gateway with a stopwatch of processor time in each step of a tool call.

    STEPS=file python -m benchmarks.stopwatch serve        as `python -m gateway serve`

It is that until the first SIGUSR1, which puts the stopwatch into every step; each writes what was
counted so far, as JSON, to the file. At each moment a thread's processor time goes to one step, the
innermost that it is in; a step that waits gives the watch back until it is resumed. What is in no
step is the event loop's: its callbacks, its tasks, and the kernel's work for its sockets.
"""

import functools
import json
import os
import signal
import threading
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from importlib import import_module
from pathlib import Path
from time import thread_time_ns
from typing import Any

from gateway.cli import main

LOOP = "event loop, tasks, sockets"
WRITER = "writer: gather, tell"
CALL = "pipeline: one call"
"""Entered once a call."""
FILE = "STEPS"

STEPS = {
    "http: read, frame": ["gateway.edge:EdgeProtocol.data_received"],
    # The application itself cannot be: uvicorn calls it once to see whether it is one.
    "http: route": [
        "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.run_asgi",
    ],
    "http: request": ["gateway.mcp.proxy:Proxy.__call__"],
    "http: answer": ["gateway.edge:Whole.answer"],
    CALL: ["gateway.pipeline:Pipeline.handle"],
    "authenticate": ["gateway.steps.authenticate:Authenticate.__call__"],
    "parse": ["gateway.pipeline:parse", "gateway.pipeline:Pipeline._call"],
    "emergency stop": ["gateway.steps.emergency_stop:EmergencyStop.clear"],
    "tool pin": ["gateway.steps.tool_pins:ToolPins.match"],
    "breaker": ["gateway.steps.breaker:Breaker.watch"],
    "policy: question": ["gateway.steps.policy:Policy.question"],
    "policy: ask, believe": ["gateway.steps.policy:Policy.decide"],
    "policy: send to OPA": ["gateway.policy.engine:Engine._request"],
    "budget look": ["gateway.steps.budget:BudgetLook.look"],
    "find approval": ["gateway.steps.approvals:Approvals.find"],
    "admit: hand over, wait": [
        "gateway.admission:Admission.admit",
        "gateway.store.writer:_resolve",
    ],
    "forward": ["gateway.mcp.upstream:Upstreams.forward"],
    "forward: send, read": [
        "gateway.http1.client:Client.open",
        "gateway.http1.client:Exchange.read",
    ],
    "read answers of OPA and server": [
        "gateway.http1.connection:AnswerReader.feed",
        "gateway.http1.connection:Connection._finish",
    ],
    "inspect": [
        "gateway.steps.inspection:Inspection.inspect",
        "gateway.steps.inspection:Inspection.screen",
        "gateway.mcp.relay:Relay.hear",
    ],
    "settle: hand over": [
        "gateway.settlement:Settlement.settle",
        "gateway.settlement:Settlement._written",
    ],
    WRITER: [],
    "admit: claims": ["gateway.admission:Admission._admit"],
    "settle: charge": ["gateway.settlement:Settlement._settle"],
    "trace: build": ["gateway.admission:decision_draft", "gateway.settlement:outcome_draft"],
    "trace: place, hash": ["gateway.trace.log:Log.append"],
    "trace: encrypt, commit to": ["gateway.trace.log:Log._commit"],
    "sql: statements": [
        "gateway.admission:run",
        "gateway.settlement:run",
        "gateway.trace.slots:run",
    ],
    "sql: insert": ["gateway.trace.log:insert_rows", "gateway.admission:insert_rows"],
    "sql: begin": ["sqlalchemy.engine.base:Connection.begin"],
    "sql: commit, flush": ["gateway.store.writer:Writer._commit"],
}
"""What is entered, by the step that it is."""


class Watch(threading.local):
    """One thread's processor time, by step, in nanoseconds."""

    def __init__(self) -> None:
        self.step = WRITER if threading.current_thread().name == "writer" else LOOP
        self.since = thread_time_ns()
        self.spent: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()
        _counted.append((self.spent, self.entered))

    def turn(self, step: str) -> str:
        """Count for ``step`` from now on; returns for which it was."""
        now = thread_time_ns()
        before, self.step = self.step, step
        self.spent[before] += now - self.since
        self.since = now
        return before


_installed = threading.Event()
_counted: list[tuple[Counter[str], Counter[str]]] = []
_watch = Watch()


@types.coroutine
def _driven(step: str, inner: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Each stretch of ``inner`` between two waits counts for the step."""
    resume: Callable[[Any], Any] = inner.send
    value: Any = None
    while True:
        before = _watch.turn(step)
        try:
            waits_for = resume(value)
        except StopIteration as end:
            return end.value
        finally:
            _watch.turn(before)
        try:
            value = yield waits_for
            resume = inner.send
        except BaseException as thrown:  # noqa: BLE001 - passed on to whom it is for
            value, resume = thrown, inner.throw


def _watched_async(step: str, fn: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        _watch.entered[step] += 1
        return await _driven(step, fn(*args, **kwargs))

    return watched


def _watched(step: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def watched(*args: Any, **kwargs: Any) -> Any:
        _watch.entered[step] += 1
        before = _watch.turn(step)
        try:
            return fn(*args, **kwargs)
        finally:
            _watch.turn(before)

    return watched


def install() -> None:
    """Put the watch into every step. A step that is no more where it was is an AttributeError."""
    for step, places in STEPS.items():
        for place in places:
            module, _, path = place.partition(":")
            *within, name = path.split(".")
            owner: Any = functools.reduce(getattr, within, import_module(module))
            fn = getattr(owner, name)
            is_async = fn.__code__.co_flags & 0x80
            setattr(owner, name, (_watched_async if is_async else _watched)(step, fn))


def counted() -> dict[str, list[int]]:
    """Nanoseconds and entries of each step, of all threads."""
    spent, entered = Counter[str](), Counter[str]()
    for of_thread, times in list(_counted):
        spent.update(dict(of_thread))
        entered.update(dict(times))
    return {step: [spent[step], entered[step]] for step in spent}


def _told(*_: object) -> None:
    if not _installed.is_set():
        _installed.set()
        install()
    path = Path(os.environ[FILE])
    part = path.with_suffix(".part")
    part.write_text(json.dumps(counted()))
    part.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _told)
    main()
