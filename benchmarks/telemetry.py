"""What metrics and spans cost a call: CPU time, with what `gateway.pipeline` keeps and without it.

    python -m benchmarks.telemetry [--rounds 15] [--calls 20000]

Both are a call through steps that do nothing, so that the difference is the counting alone: five
looks at the clock, four histograms, two counters, three more coroutines. Rounds take turns and
the median counts. The share is that of a call where one core makes 4,000 of them a second.

Spans are those of one call in ten, made, encoded and sent to a receiver in a process of its own.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import perf_counter, process_time

from uuid_utils import uuid7

from gateway.telemetry.counters import ADMITTED, Counters
from gateway.telemetry.otlp import Otlp
from gateway.telemetry.tracing import CallSpan, Tracing, by_ratio, parent_of
from gateway.values import Action, Fate

CALL_US = 250.0
SAMPLED = 0.1
CALLS_THAT_FIT = 4_000
"""With four spans for one in ten: the queue holds 2,048, and none must be dropped."""

Call = Callable[[Counters], Awaitable[None]]


async def step() -> None:
    """Policy, admission or forward, without anything to do."""


async def without(_: Counters) -> None:
    await step()
    await step()
    await step()


async def counted(counters: Counters) -> None:
    """Shaped as `Pipeline.call_tool`."""
    started = perf_counter()
    try:
        await _called(counters)
    finally:
        counters.call.since(started)


async def _called(counters: Counters) -> None:
    started = perf_counter()
    try:
        await step()
    finally:
        counters.policy.since(started)
    await _admit(counters)
    await _forward(counters)


async def _admit(counters: Counters) -> None:
    started = perf_counter()
    try:
        await step()
    finally:
        counters.admission.since(started)
    counters.decided(Action.ALLOW.value, ADMITTED)


async def _forward(counters: Counters) -> None:
    started = perf_counter()
    await step()
    counters.forward.since(started)
    counters.forwarded(Fate.ANSWERED.value, "")


async def microseconds(call: Call, calls: int) -> float:
    """CPU time of one."""
    counters = Counters()
    started = process_time()
    for _ in range(calls):
        await call(counters)
    return (process_time() - started) / calls * 1e6


async def measure(rounds: int, calls: int) -> tuple[float, float]:
    taken: dict[Call, list[float]] = {without: [], counted: []}
    for _ in range(rounds):
        for call, times in taken.items():
            times.append(await microseconds(call, calls))
    return statistics.median(taken[without]), statistics.median(taken[counted])


def traced(calls: int) -> float:
    """CPU time that one call more takes where one in ten has spans, in microseconds."""
    otlp = Otlp()
    tracing = Tracing(SAMPLED, otlp.export)
    ids = [uuid7().int for _ in range(calls)]
    headers = ((b"content-type", b"application/json"),)
    started = process_time()
    for trace_id in ids:
        if parent_of(headers, {}) is None and by_ratio(trace_id, tracing.ratio):
            span = CallSpan("trc_0", "srv_0", trace_id, None)
            began = perf_counter()
            span.took("policy", began)
            span.took("admission", began)
            span.took("forward", began)
            tracing.end(span)
    otlp.close(60)
    return (process_time() - started) / calls * 1e6


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def receiver() -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), _Receiver) as server:
        # A fork shares the socket that listens already.
        serving = multiprocessing.get_context("fork").Process(target=server.serve_forever)
        serving.start()
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
        try:
            yield
        finally:
            serving.terminate()
            serving.join()


def spans(rounds: int) -> float:
    with receiver():
        return statistics.median(traced(CALLS_THAT_FIT) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=20_000)
    given = parser.parse_args()
    before, after = asyncio.run(measure(given.rounds, given.calls))
    print("CPU time of a call's counting")
    print(f"  empty steps, not counted  {before:6.2f} us")
    print(f"  empty steps, counted      {after:6.2f} us")
    cost = after - before
    print(f"  metrics                   {cost:6.2f} us, {cost / CALL_US:.1%} of {CALL_US:.0f} us")
    cost = spans(given.rounds)
    print(f"  spans of one in ten       {cost:6.2f} us, {cost / CALL_US:.1%} of {CALL_US:.0f} us")


if __name__ == "__main__":
    main()
