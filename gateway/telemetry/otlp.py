"""Sends spans by OTLP over HTTP, as OpenTelemetry's own variables say; the extra `otlp`.

Sending is a thread's: calls only put their spans into a bounded queue, and what does not fit is
dropped. A receiver that is slow or away never holds up a call.
"""

import threading
from collections.abc import Iterator

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from gateway.telemetry.tracing import CallSpan, Parent

_SCOPE = InstrumentationScope("policy-gateway")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Otlp:
    """Where the receiver is, and how it is spoken to, is read from `OTEL_…` here."""

    def __init__(self) -> None:
        self._resource = Resource.create()
        if str(self._resource.attributes.get("service.name", "")).startswith("unknown_service"):
            self._resource = self._resource.merge(Resource({"service.name": "policy-gateway"}))
        self._queue = BatchSpanProcessor(OTLPSpanExporter())

    def export(self, span: CallSpan) -> None:
        for one in self._spans(span):
            self._queue.on_end(one)

    def close(self, seconds: float) -> None:
        """Send what waits, for so long at the most."""
        # The queue's own patience is half a minute, and that of a hanging receiver is longer.
        closing = threading.Thread(target=self._queue.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)

    def _spans(self, span: CallSpan) -> Iterator[ReadableSpan]:
        own = _context(span.trace_id, span.span_id)
        for number, (step, started, ended) in enumerate(span.steps):
            forward = step == "forward"
            # Below the call's; no other step's id is named anywhere, so it need not be random.
            span_id = span.forward_id if forward else (span.span_id + number + 1) % 2**64 or 1
            yield ReadableSpan(
                step,
                context=_context(span.trace_id, span_id),
                parent=own,
                resource=self._resource,
                kind=SpanKind.CLIENT if forward else SpanKind.INTERNAL,
                start_time=span.ns(started),
                end_time=span.ns(ended),
                instrumentation_scope=_SCOPE,
            )
        yield ReadableSpan(
            "tools/call",
            context=own,
            parent=_remote(span.parent),
            resource=self._resource,
            attributes={
                "gateway.call.id": span.call_id,
                "gateway.server.id": span.server_id,
                "gateway.action": span.action,
                "gateway.reason": span.reason,
            },
            kind=SpanKind.SERVER,
            start_time=span.began_ns,
            end_time=span.ns(span.ended),
            instrumentation_scope=_SCOPE,
        )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)


def _remote(parent: Parent | None) -> SpanContext | None:
    if parent is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
