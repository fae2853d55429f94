"""What was parsed is what runs: each form of a call, in servers on three SDKs."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
import pytest
from jiter import LosslessFloat

from gateway.mcp.arguments import compile_schema
from gateway.mcp.envelope import BadMessage, RequestMessage, ToolCall, parse, tool_call
from tests.end_to_end.differential.forms import ARGUMENTS, MESSAGES, Form
from tests.end_to_end.differential.servers import LANGUAGES, running

MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"
DOUBLES_ONLY = 2**53


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running server, as one client sees it in one era."""

    language: str
    http: httpx.Client
    headers: Mapping[str, str]
    """What a `tools/call` is sent with."""
    argument_fault: Callable[[Mapping[str, Any]], str | None]
    """From the schema that this server lists for its tool."""

    def call(self, arguments: bytes) -> bytes:
        """Return the message that calls `record` with these arguments in this era."""
        meta = b""
        if self.headers.get("mcp-protocol-version") == MODERN:
            meta = (
                b',"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
                b'"io.modelcontextprotocol/clientCapabilities":{}}'
            )
        params = b'{"name":"record","arguments":' + arguments + meta + b"}"
        return b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":' + params + b"}"

    def accepted(self, body: bytes) -> ToolCall | None:
        """Return the call as policy would see it, or None when it is refused before."""
        headers = tuple((key.encode(), value.encode()) for key, value in self.headers.items())
        try:
            message = parse(body, headers)
        except BadMessage:
            return None
        assert isinstance(message, RequestMessage)
        call = tool_call(message)
        return None if self.argument_fault(call.arguments) else call

    def send(self, body: bytes) -> list[dict[str, Any]]:
        """Send exactly these bytes; return what tools ran with which arguments."""
        self.http.post("/mcp", content=body, headers=dict(self.headers))
        taken = self.http.get("/ran").content
        ran: list[dict[str, Any]] = json.loads(taken, parse_float=Decimal)
        return ran


def _connect(language: str, http: httpx.Client) -> Upstream:
    headers = {"content-type": "application/json", "accept": ACCEPT}
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "differential", "version": "1"},
    }
    answer = http.post("/mcp", content=_rpc("initialize", hello), headers=headers)
    headers["mcp-session-id"] = answer.headers["mcp-session-id"]
    headers["mcp-protocol-version"] = _result(answer)["protocolVersion"]
    done = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    assert http.post("/mcp", content=done, headers=headers).status_code == 202
    listed = _result(http.post("/mcp", content=_rpc("tools/list", {}), headers=headers))
    schemas = {tool["name"]: tool["inputSchema"] for tool in listed["tools"]}
    assert schemas.keys() == {"record", "other"}
    return Upstream(language, http, headers, compile_schema(schemas["record"]))


def _rpc(method: str, params: Mapping[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def _result(answer: httpx.Response) -> Any:
    """Return the result in a JSON answer, or in the last event of a stream."""
    text = answer.text
    if "event-stream" in answer.headers["content-type"]:
        text = [line[5:] for line in text.splitlines() if line.startswith("data:")][-1]
    return json.loads(text)["result"]


@pytest.fixture(scope="module", params=LANGUAGES)
def legacy(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    with running(request.param) as url, httpx.Client(base_url=url, trust_env=False) as http:
        yield _connect(request.param, http)


@pytest.fixture(scope="module")
def modern() -> Iterator[Upstream]:
    with running("python") as url, httpx.Client(base_url=url, trust_env=False) as http:
        fault = _connect("python", http).argument_fault
        headers = {"content-type": "application/json", "accept": ACCEPT}
        headers |= {"mcp-method": "tools/call", "mcp-name": "record"}
        yield Upstream("python", http, headers | {"mcp-protocol-version": MODERN}, fault)


@pytest.mark.parametrize("form", ARGUMENTS, ids=lambda form: form.name)
def test_arguments_run_as_they_were_parsed(legacy: Upstream, form: Form) -> None:
    _deliver(legacy, form, legacy.call(form.text))


@pytest.mark.parametrize("form", MESSAGES, ids=lambda form: form.name)
def test_a_message_runs_as_it_was_parsed(legacy: Upstream, form: Form) -> None:
    _deliver(legacy, form, form.text)


@pytest.mark.parametrize("form", ARGUMENTS, ids=lambda form: form.name)
def test_arguments_run_as_they_were_parsed_in_the_modern_era(modern: Upstream, form: Form) -> None:
    _deliver(modern, form, modern.call(form.text))


def test_without_the_type_check_the_python_sdk_runs_another_value(modern: Upstream) -> None:
    body = modern.call(b'{"tags":"[\\"a\\"]","note":"null"}')
    assert modern.accepted(body) is None
    (ran,) = modern.send(body)
    assert ran["arguments"]["tags"] == ["a"]
    assert ran["arguments"]["note"] is None


def _deliver(upstream: Upstream, form: Form, body: bytes) -> None:
    call = upstream.accepted(body)
    if form.outcome == "refused":
        assert call is None
        return
    assert call is not None
    ran = upstream.send(body)
    if upstream.language in form.not_run_by:
        assert ran == []
        return
    (run,) = ran
    assert run["tool"] == call.name
    _assert_same_arguments(call.arguments, run["arguments"])


def _assert_same_arguments(sent: Mapping[str, Any], ran: Mapping[str, Any]) -> None:
    for key, value in sent.items():
        if key in ran:
            assert _same(value, ran[key]), f"{key}: {value!r} was sent, {ran[key]!r} ran"
        else:
            assert value in (None, False, "", [], {}) or float(value) == 0, f"{key} did not run"
    for key in ran.keys() - sent.keys():
        assert not ran[key], f"{key} was not sent and ran as {ran[key]!r}"


def _same(sent: Any, ran: Any) -> bool:
    if isinstance(sent, dict):
        return sent.keys() == ran.keys() and all(_same(sent[key], ran[key]) for key in sent)
    if isinstance(sent, list):
        return len(sent) == len(ran) and all(map(_same, sent, ran))
    if isinstance(sent, LosslessFloat) or type(sent) is int:
        exact, held = Decimal(str(sent)), Decimal(ran)
        # Some servers hold every number as a double; past 2^53 that is the nearest one.
        return exact == held or (abs(exact) > DOUBLES_ONLY and float(exact) == float(held))
    return type(sent) is type(ran) and bool(sent == ran)
