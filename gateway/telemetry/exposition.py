"""Prometheus' text of a `gateway.telemetry.metrics.Reading`; docs/operations.md has each name."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.telemetry.counters import BOUNDS, Durations
from gateway.telemetry.metrics import Reading
from gateway.trace.receipts import Standing

_EDGES = (*(repr(bound) for bound in BOUNDS), "+Inf")
Labels = TypeVar("Labels", bound=tuple[str, ...])
_BUDGETS = frozenset({"budget_exceeded", "amount_refused"})


def text(reading: Reading) -> bytes:
    """In the format of `gateway.telemetry.metrics.CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(reading))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Once(Collector):
    """One reading, for one registry that lives as long as the answer."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        yield from _calls(self._reading)
        yield from _policy(self._reading)
        yield from _log(self._reading)
        yield from _now(self._reading)


def _calls(reading: Reading) -> Iterator[Metric]:
    counters = reading.counters
    yield _counted(
        "gateway_decisions",
        "Tool calls by what was decided; reason_code says why one was refused.",
        ("action", "reason_code"),
        counters.decisions,
    )
    yield _counted(
        "gateway_forwards",
        "Permitted tool calls by what became of them; reason_code where there was no answer.",
        ("fate", "reason_code"),
        counters.forwards,
    )
    refused = sum(n for (_, why), n in counters.decisions.items() if why in _BUDGETS)
    yield CounterMetricFamily(
        "gateway_budget_refusals", "Tool calls refused by a budget.", value=refused
    )
    yield _counted(
        "gateway_unauthenticated_requests",
        "Requests to the proxy without a key that may call, by HTTP status.",
        ("status",),
        {(str(status),): n for status, n in counters.turned_away.items()},
    )
    yield _counted(
        "gateway_unreadable_messages",
        "Messages of good keys that could not be read, by JSON-RPC code.",
        ("code",),
        {(str(code),): n for code, n in counters.unreadable.items()},
    )
    steps = HistogramMetricFamily(
        "gateway_step_seconds",
        "What steps of a tool call took; `call` is all of it, to the answer or its first byte.",
        labels=("step",),
    )
    for step, durations in counters.steps().items():
        steps.add_metric((step,), _buckets(durations), durations.seconds)
    yield steps


def _policy(reading: Reading) -> Iterator[Metric]:
    opa, policy = reading.opa, reading.policy
    failure = policy.last_failure
    broken = failure is not None and failure.resolved_at is None
    yield _gauge("gateway_opa_ready", "1 while OPA decides on the current bundle.", opa.ready)
    yield CounterMetricFamily(
        "gateway_opa_restarts", "How often OPA was started anew.", value=opa.restarts
    )
    yield _gauge(
        "gateway_policy_sources_broken",
        "1 while the sources do not build and the last good bundle decides.",
        broken,
    )
    since = policy.active.since if policy.active else None
    yield _gauge(
        "gateway_policy_active_since_seconds",
        "Unix time at which the bundle that decides became active; 0 for none.",
        datetime.fromisoformat(since).timestamp() if since else 0,
    )


def _log(reading: Reading) -> Iterator[Metric]:
    number, size = reading.stored.log
    signed_log, signed = reading.stored.signed
    if signed_log != number:  # a log that follows a sealed one starts without a signature
        signed = 0
    yield _gauge("gateway_log_records", "Records in the log in use.", size)
    yield _gauge("gateway_log_signed_records", "Of these, below the last checkpoint.", signed)
    yield _gauge(
        "gateway_log_unsigned_records",
        "Of these, newer than the last checkpoint.",
        max(0, size - signed),
    )
    yield _gauge(
        "gateway_log_anchored_records",
        "Of these, vouched for by an anchor.",
        reading.stored.anchored,
    )
    yield _gauge("gateway_database_bytes", "The database with its journal.", reading.database_bytes)
    records, size = reading.stored.cold
    yield _gauge("gateway_cold_records", "Records of all logs in cold storage.", records)
    yield _gauge("gateway_cold_bytes", "Of these, the bytes.", size)
    yield _gauge(
        "gateway_cold_failing",
        "1 while old records cannot be moved to cold storage.",
        reading.cold_failing,
    )
    anchors = GaugeMetricFamily("gateway_anchors", "Anchors by state.", labels=("state",))
    for state in get_args(Standing):
        if state != "LOCAL_ONLY":  # of a log without anchors, never of an anchor
            anchors.add_metric((state,), reading.stored.anchors.get(state, 0))
    yield anchors


def _now(reading: Reading) -> Iterator[Metric]:
    stops = reading.stored.stops + reading.stopped_by_file
    yield _gauge(
        "gateway_approvals_pending",
        "Calls that wait for a person.",
        reading.stored.approvals_pending,
    )
    yield _gauge("gateway_emergency_stops", "Emergency stops in force.", stops)
    yield _gauge(
        "gateway_calls_running", "Calls between admission and settlement.", reading.calls_running
    )
    yield _gauge(
        "gateway_streams_open", "Streams of events to callers under way.", reading.streams_open
    )
    yield _gauge(
        "gateway_writer_queue", "Pieces of work that wait for a commit.", reading.writer_queued
    )
    yield _gauge(
        "gateway_writer_failing", "1 while the last commit failed.", reading.writer_failing
    )


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, value=float(value))


def _counted(
    name: str, says: str, labels: Sequence[str], counts: Mapping[Labels, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, says, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    return list(zip(_EDGES, accumulate(durations.counts), strict=True))
