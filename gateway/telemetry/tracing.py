"""Spans of a call and its steps: which calls have them, and what context goes on to the server.

Nothing of OpenTelemetry is imported here: `gateway.telemetry.otlp` is, where `configured` says so.
A span holds ids, codes and times, never what a call carried.
"""

import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from time import perf_counter, time_ns
from typing import Literal

from gateway.frozen import frozen
from gateway.settings import SettingsFault
from gateway.values import Call

Step = Literal["policy", "admission", "forward"]
Headers = tuple[tuple[bytes, bytes], ...]

DEFAULT_RATIO = 0.1
_RANDOM_BITS = 32
"""The rightmost of a call's id: further left, ids of one millisecond count upwards."""
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLERS = ("", "parentbased_traceidratio")


@frozen
class Parent:
    """A `traceparent` that a caller sent (W3C Trace Context, section 3.2)."""

    trace_id: int
    span_id: int
    sampled: bool


@dataclass(slots=True)
class CallSpan:
    """One sampled call; times are of `time.perf_counter`."""

    call_id: str
    server_id: str
    trace_id: int
    parent: Parent | None
    span_id: int = field(default_factory=lambda: _span_id())
    forward_id: int = field(default_factory=lambda: _span_id())
    """The step that the server's own spans hang below."""
    began: float = field(default_factory=perf_counter)
    began_ns: int = field(default_factory=time_ns)
    ended: float = 0.0
    steps: list[tuple[Step, float, float]] = field(default_factory=list)
    action: str = ""
    reason: str = ""

    def took(self, step: Step, started: float) -> None:
        self.steps.append((step, started, perf_counter()))

    def ns(self, moment: float) -> int:
        """Nanoseconds since 1970."""
        return self.began_ns + int((moment - self.began) * 1e9)

    @property
    def traceparent(self) -> bytes:
        return b"00-%032x-%016x-01" % (self.trace_id, self.forward_id)


current: ContextVar[CallSpan | None] = ContextVar("current", default=None)
"""The span of the call that this task carries out."""


@frozen
class Tracing:
    """``ratio`` of the calls that come without a decision of their caller's."""

    ratio: float
    export: Callable[[CallSpan], None]

    def begin(self, call: Call) -> CallSpan | None:
        """The call's span, if it is sampled: as the caller said, else by the ratio."""
        # A call that is made anew has our own context in its request, its caller's in `sent`.
        parent = parent_of((call.sent or call.request).headers, call.params)
        trace_id = int(call.id[-32:], 16) if parent is None else parent.trace_id
        if not (by_ratio(trace_id, self.ratio) if parent is None else parent.sampled):
            return None
        return CallSpan(call.id, call.caller.server.id, trace_id, parent)

    def end(self, span: CallSpan) -> None:
        span.ended = perf_counter()
        self.export(span)


def onward(call: Call, span: CallSpan) -> Call:
    """The call with `traceparent` as the server is to have it; the body stays as it was sent."""
    headers = tuple(header for header in call.request.headers if header[0] != b"traceparent")
    headers += ((b"traceparent", span.traceparent),)
    return replace(call, request=replace(call.request, headers=headers))


def parent_of(headers: Headers, params: Mapping[str, object]) -> Parent | None:
    """The caller's context: of the header, which is nearer, or of `params._meta` (SEP-414).

    What is malformed, or stands twice, is as if it were not there.
    """
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) == 1 and (parent := read(given[0].decode("latin-1"))) is not None:
        return parent
    meta = params.get("_meta")
    said = meta.get("traceparent") if isinstance(meta, dict) else None
    return read(said) if isinstance(said, str) else None


def read(traceparent: str) -> Parent | None:
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(found[4], 16) & 1))


def by_ratio(trace_id: int, ratio: float) -> bool:
    """The same answer for the same trace id, wherever it is asked."""
    return trace_id & ((1 << _RANDOM_BITS) - 1) < ratio * (1 << _RANDOM_BITS)


def configured() -> float | None:
    """The ratio, where OpenTelemetry's own variables name a receiver; None where they do not.

    Raises `SettingsFault`.
    """
    named = any(
        os.environ.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT", "") for kind in ("", "TRACES_")
    )
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if not named or off or exporter == "none":
        return None
    faults = []
    if exporter not in ("", "otlp"):
        faults.append("OTEL_TRACES_EXPORTER: must be otlp, or none")
    if os.environ.get("OTEL_TRACES_SAMPLER", "") not in _SAMPLERS:
        faults.append("OTEL_TRACES_SAMPLER: must be parentbased_traceidratio")
    share = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "") or str(DEFAULT_RATIO)
    if not re.fullmatch(r"0(\.\d+)?|1(\.0+)?", share):
        faults.append("OTEL_TRACES_SAMPLER_ARG: must be a share from 0 to 1, such as 0.1")
    if faults:
        raise SettingsFault(faults)
    return float(share)


def _span_id() -> int:
    return secrets.randbits(64) or 1
