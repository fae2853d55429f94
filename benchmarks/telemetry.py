"""What metrics cost a call: CPU time, with what `gateway.pipeline` counts and without it.

    python -m benchmarks.telemetry [--rounds 15] [--calls 20000]

Both are a call through steps that do nothing, so that the difference is the counting alone: five
looks at the clock, four histograms, two counters, three more coroutines. Rounds take turns and
the median counts. The share is that of a call where one core makes 4,000 of them a second.
"""

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from time import perf_counter, process_time

from gateway.counters import ADMITTED, Counters
from gateway.values import Action, Fate

CALL_US = 250.0

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


if __name__ == "__main__":
    main()
