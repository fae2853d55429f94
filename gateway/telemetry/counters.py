"""What is counted on every call: plain numbers in memory, read when somebody asks for metrics.

Labels are bounded by the code: actions, reasons and fates, never what a caller or a server names.
All of it belongs to the event loop. `benchmarks/telemetry.py` measures what a call pays for it.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import field
from time import perf_counter
from typing import Literal

from gateway.frozen import frozen

Step = Literal["policy", "admission", "forward", "call"]

BOUNDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets, in seconds; what took longer is in one more."""
ADMITTED = "admitted"
"""Stands for the reason of a call that was not refused."""


class Durations:
    """A histogram. `counts` are of each bucket alone; `seconds` is the sum."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def since(self, started: float) -> None:
        """Count what began at this `time.perf_counter()` and ends now."""
        took = perf_counter() - started
        self.counts[bisect_left(BOUNDS, took)] += 1
        self.seconds += took

    def quantile(self, share: float) -> float | None:
        """Seconds below which this share of what was counted lies; None when nothing was.

        Taken to be even within a bucket; beyond the last bound it is that bound.
        """
        wanted = share * sum(self.counts)
        if not wanted:
            return None
        below = 0
        for number, bound in enumerate(BOUNDS):
            inside = self.counts[number]
            if below + inside >= wanted:
                start = BOUNDS[number - 1] if number else 0.0
                return start + (bound - start) * (wanted - below) / inside
            below += inside
        return BOUNDS[-1]


@frozen
class Counters:
    """Of one process, since it started."""

    decisions: dict[tuple[str, str], int] = field(default_factory=dict)
    """By action and reason."""
    forwards: dict[tuple[str, str], int] = field(default_factory=dict)
    """By fate and reason; the reason is empty when there was an answer."""
    turned_away: dict[int, int] = field(default_factory=dict)
    """Requests without a good key, by HTTP status."""
    unreadable: dict[int, int] = field(default_factory=dict)
    """Messages that could not be read, by JSON-RPC code."""
    policy: Durations = field(default_factory=Durations)
    admission: Durations = field(default_factory=Durations)
    forward: Durations = field(default_factory=Durations)
    call: Durations = field(default_factory=Durations)

    def decided(self, action: str, reason: str) -> None:
        key = (action, reason)
        self.decisions[key] = self.decisions.get(key, 0) + 1

    def forwarded(self, fate: str, reason: str) -> None:
        key = (fate, reason)
        self.forwards[key] = self.forwards.get(key, 0) + 1

    def turn_away(self, status: int) -> None:
        self.turned_away[status] = self.turned_away.get(status, 0) + 1

    def not_read(self, code: int) -> None:
        self.unreadable[code] = self.unreadable.get(code, 0) + 1

    def steps(self) -> Mapping[Step, Durations]:
        """A call under way is counted in the steps that it has left behind."""
        return {
            "policy": self.policy,
            "admission": self.admission,
            "forward": self.forward,
            "call": self.call,
        }
