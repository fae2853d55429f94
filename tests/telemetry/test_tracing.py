"""Spans: which calls have them, what they hold, and that a real OTLP receiver gets them."""

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.app import _spans
from gateway.ids import new_id
from gateway.pipeline import Pipeline
from gateway.settings import SettingsFault
from gateway.telemetry.logs import log_to_stderr
from gateway.telemetry.otlp import Otlp
from gateway.telemetry.tracing import CallSpan, Tracing, by_ratio, configured, read
from gateway.values import Action, Answer, Forwarded, Permit
from tests.builders import a_body, a_request, a_state
from tests.pipeline_world import FakeUpstreams, Line, a_line

pytestmark = pytest.mark.anyio

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
SECRET_ARGUMENT = "a customer's name"


class Receiver(ThreadingHTTPServer):
    """An OTLP receiver: keeps what it was sent, decoded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Received)
        self.paths: list[str] = []
        self.raw = b""
        self.spans: list[Span] = []
        self.services: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Received(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = self.server
        assert isinstance(receiver, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        receiver.raw += body
        receiver.paths.append(self.path)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for attribute in of_resource.resource.attributes:
                if attribute.key == "service.name":
                    receiver.services.add(attribute.value.string_value)
            for of_scope in of_resource.scope_spans:
                receiver.spans.extend(of_scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SDK_DISABLED", "TRACES_EXPORTER", "TRACES_SAMPLER", "TRACES_SAMPLER_ARG"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    yield
    structlog.reset_defaults()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server
        server.shutdown()
        thread.join()


class Listening(FakeUpstreams):
    """Keeps the headers that a call was sent with."""

    headers: tuple[tuple[bytes, bytes], ...] = ()
    body = b""

    async def forward(self, permit: Permit, before_write: Callable[[], None]) -> Forwarded:
        self.headers, self.body = permit.call.request.headers, permit.call.request.body
        return await super().forward(permit, before_write)

    @property
    def traceparents(self) -> list[str]:
        return [value.decode() for name, value in self.headers if name == b"traceparent"]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with a_state(tmp_path) as world:
        yield a_line(world)


@contextmanager
def traced(line: Line, tracing: Tracing | None) -> Iterator[tuple[Pipeline, Listening]]:
    upstream = Listening(line.world)
    yield replace(line.pipeline, upstreams=upstream, tracing=tracing), upstream


def kept(ratio: float) -> tuple[Tracing, list[CallSpan]]:
    spans: list[CallSpan] = []
    return Tracing(ratio, spans.append), spans


async def call(pipeline: Pipeline, *traceparents: str, meta: object = None) -> Answer:
    arguments = {"said": SECRET_ARGUMENT}
    body = json.loads(a_body(arguments=arguments))
    if meta is not None:
        body["params"]["_meta"] = {"traceparent": meta}
    request = a_request(json.dumps(body).encode())
    given = tuple((b"traceparent", one.encode()) for one in traceparents)
    return await pipeline.handle(replace(request, headers=request.headers + given))


async def test_a_receiver_gets_a_call_and_its_steps_and_nothing_of_what_it_carried(
    line: Line, receiver: Receiver
) -> None:
    otlp = Otlp()
    with traced(line, Tracing(1.0, otlp.export)) as (pipeline, upstream):
        answer = await call(pipeline)
    otlp.close(60)
    assert answer.status == 200
    assert receiver.paths == ["/v1/traces"]
    assert receiver.services == {"policy-gateway"}
    by_name = {span.name: span for span in receiver.spans}
    assert by_name.keys() == {"tools/call", "policy", "admission", "forward"}
    root = by_name.pop("tools/call")
    assert {span.trace_id for span in receiver.spans} == {root.trace_id}
    assert {span.parent_span_id for span in by_name.values()} == {root.span_id}
    assert len({span.span_id for span in receiver.spans}) == 4
    for span in receiver.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    told = {attribute.key: attribute.value.string_value for attribute in root.attributes}
    assert told == {
        "gateway.call.id": f"trc_{root.trace_id.hex()}",
        "gateway.server.id": "srv_1",
        "gateway.action": "ALLOW",
        "gateway.reason": "admitted",
    }
    assert upstream.sent == [told["gateway.call.id"]]
    forward = by_name["forward"].span_id.hex()
    assert upstream.traceparents == [f"00-{root.trace_id.hex()}-{forward}-01"]
    assert SECRET_ARGUMENT.encode() in upstream.body
    assert SECRET_ARGUMENT.encode() not in receiver.raw


async def test_a_receiver_that_is_away_keeps_nobody_waiting(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    otlp = Otlp()
    with traced(line, Tracing(1.0, otlp.export)) as (pipeline, _):
        assert (await call(pipeline)).status == 200
    otlp.close(0.0)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_the_callers_decision_and_trace_go_before_the_ratio(line: Line, ratio: float) -> None:
    tracing, spans = kept(ratio)
    with traced(line, tracing) as (pipeline, upstream):
        await call(pipeline, UNSAMPLED)
        assert spans == []
        assert upstream.traceparents == [UNSAMPLED]
        await call(pipeline, SAMPLED)
        (span,) = spans
        assert upstream.traceparents == [span.traceparent.decode()]
    assert span.traceparent.decode().split("-")[1] == TRACE
    assert span.parent == read(SAMPLED)


async def test_the_context_is_taken_from_meta_and_the_body_passes_as_it_was_sent(
    line: Line,
) -> None:
    tracing, spans = kept(0.0)
    with traced(line, tracing) as (pipeline, upstream):
        await call(pipeline, meta=SAMPLED)
        assert json.loads(upstream.body)["params"]["_meta"] == {"traceparent": SAMPLED}
    assert [span.parent for span in spans] == [read(SAMPLED)]


async def test_the_header_which_is_nearer_goes_before_meta(line: Line) -> None:
    tracing, spans = kept(1.0)
    with traced(line, tracing) as (pipeline, _):
        await call(pipeline, UNSAMPLED, meta=SAMPLED)
        assert spans == []
        await call(pipeline, "00-broken", meta=SAMPLED)
        await call(pipeline, SAMPLED, SAMPLED)
    assert [span.parent for span in spans] == [read(SAMPLED), None]


@pytest.mark.parametrize(
    "broken",
    [
        "",
        SAMPLED.upper(),
        SAMPLED + "-x",
        SAMPLED[:-1],
        "ff" + SAMPLED[2:],
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        SAMPLED + "\n",
    ],
)
def test_a_malformed_context_is_none(broken: str) -> None:
    assert read(broken) is None
    assert read("01" + SAMPLED[2:] + "-later") is not None


async def test_a_refusal_is_told_with_its_reason(line: Line) -> None:
    tracing, spans = kept(1.0)
    line.policy.action = Action.DENY
    with traced(line, tracing) as (pipeline, _):
        await call(pipeline)
    (span,) = spans
    assert (span.action, span.reason) == ("DENY", "policy_denied")
    assert [step for step, _, _ in span.steps] == ["policy"]


async def test_calls_at_the_same_time_have_steps_of_their_own(line: Line) -> None:
    tracing, spans = kept(1.0)
    with traced(line, tracing) as (pipeline, _):
        await call(pipeline)
        await call(pipeline)
    assert [len(span.steps) for span in spans] == [3, 3]
    assert len({span.trace_id for span in spans}) == 2


async def test_lines_that_are_logged_meanwhile_hold_the_ids(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    log_to_stderr("info")
    tracing, spans = kept(1.0)

    async def broken() -> None:
        raise RuntimeError("broken")

    line.policy.meanwhile = broken
    with traced(line, tracing) as (pipeline, _):
        await call(pipeline)
    structlog.get_logger("after").warning("after")
    first, *_, last = map(json.loads, stderr.getvalue().splitlines())
    assert first["trace_id"] == f"{spans[0].trace_id:032x}"
    assert first["span_id"] == f"{spans[0].span_id:016x}"
    assert "trace_id" not in last


async def test_without_tracing_the_callers_context_passes_as_it_was_sent(line: Line) -> None:
    with traced(line, None) as (pipeline, upstream):
        await call(pipeline, SAMPLED)
        assert upstream.traceparents == [SAMPLED]


def test_a_ratio_takes_its_share_of_the_ids_that_calls_have_at_the_same_moment() -> None:
    ids = [int(new_id("trc")[-32:], 16) for _ in range(4000)]
    none, tenth, every = (sum(by_ratio(one, ratio) for one in ids) for ratio in (0.0, 0.1, 1.0))
    assert (none, every) == (0, 4000)
    assert 200 < tenth < 600


def test_it_is_off_until_a_receiver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert configured() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    assert configured() == 0.1
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    assert configured() == 0.5
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert configured() is None


def test_what_is_not_understood_is_refused_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1.5")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(SettingsFault) as told:
        configured()
    assert [fault.partition(":")[0] for fault in told.value.faults] == [
        "OTEL_TRACES_EXPORTER",
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
    ]


def test_without_the_extra_the_gateway_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.delitem(sys.modules, "gateway.telemetry.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsFault, match="its extra `otlp`"), _spans():
        pass


def test_the_last_spans_are_sent_when_the_gateway_ends(receiver: Receiver) -> None:
    with _spans() as tracing:
        assert tracing is not None
        tracing.end(CallSpan("trc_1", "srv_1", 1, None))
    assert [span.name for span in receiver.spans] == ["tools/call"]
