"""The strict parse; what servers do with the same bytes is in `end_to_end/differential`."""

import base64
import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.envelope import (
    METHODS,
    BadMessage,
    ClientResponse,
    Message,
    Notification,
    RequestMessage,
    parse,
    tool_call,
)
from gateway.mcp.folding import fold
from gateway.values import Era
from tests.end_to_end.differential.forms import MESSAGES, Form

JSON_TYPE = (b"content-type", b"application/json")
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def legacy(body: Any, *more: tuple[bytes, bytes]) -> Message:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(raw, (JSON_TYPE, *more))


def modern(body: Any, method: str = "tools/call", name: str | None = "record") -> Message:
    headers = [(b"mcp-protocol-version", b"2026-07-28"), (b"mcp-method", method.encode())]
    if name is not None:
        headers.append((b"mcp-name", name.encode()))
    return legacy(body, *headers)


def request(method: str = "tools/call", **more: Any) -> dict[str, Any]:
    params = {"name": "record", "arguments": {}} if method == "tools/call" else {}
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params} | more


def modern_request(method: str = "tools/call", **params: Any) -> dict[str, Any]:
    named = {"name": "record"} if method == "tools/call" else {}
    return request(method, params=named | {"_meta": MODERN_META} | params)


def fault_of(body: Any, *more: tuple[bytes, bytes]) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        legacy(body, *more)
    return caught.value


def modern_fault_of(
    body: Any, method: str = "tools/call", name: str | None = "record"
) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        modern(body, method, name)
    return caught.value


def test_a_call_is_read_whole() -> None:
    body = {
        "name": "record",
        "arguments": {"a": [1, {"b": None}]},
        "_meta": {"progressToken": 1, "traceparent": "00-", "acme/tenant": "x"} | MODERN_META,
        "task": {"ttl": 1},
        "inputResponses": {"k": {"action": "accept"}},
        "requestState": "opaque",
    }
    message = modern(request(params=body))
    assert isinstance(message, RequestMessage)
    assert (message.id, message.method, message.era) == (7, "tools/call", Era.MODERN)
    call = tool_call(message)
    assert (call.name, call.arguments) == ("record", {"a": [1, {"b": None}]})
    assert call.meta == {"acme/tenant": "x"}
    assert (call.task, call.request_state) == ({"ttl": 1}, "opaque")
    assert call.input_responses == {"k": {"action": "accept"}}
    assert call.params == body


def test_a_call_without_arguments_has_none() -> None:
    message = legacy(request(params={"name": "record"}))
    assert isinstance(message, RequestMessage)
    assert tool_call(message).arguments == {}
    assert tool_call(message).meta == {}


@pytest.mark.parametrize("form", MESSAGES, ids=lambda form: form.name)
def test_each_form_of_a_message_is_read_or_refused(form: Form) -> None:
    if form.outcome == "runs":
        assert isinstance(legacy(form.text), RequestMessage)
    else:
        assert fault_of(form.text).http_status == 400


@pytest.mark.parametrize(
    ("body", "status", "code", "rpc_id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}', 400, -32700, None),
        (b"{", 400, -32700, None),
        (b"[]", 400, -32600, None),
        (b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]', 400, -32600, None),
        (b'"ping"', 400, -32600, None),
        (request(params={"name": "record", "arguments": {"a": 2**63}}), 400, -32700, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":1e400}}', 400, -32700, 7),
        (request(id=7.0), 400, -32600, None),
        (request(id=None), 400, -32600, None),
        (request(id=2**53), 400, -32600, None),
        (request(extra=1), 400, -32600, 7),
        (request(method="no/such"), 200, -32601, 7),
        (request(method="server/discover"), 200, -32601, 7),
        (request() | {"method": 5}, 400, -32600, 7),
        (request(params=[]), 400, -32602, 7),
        (request(params={"name": "record", "_meta": 1}), 400, -32602, 7),
        (request(params={"name": "record", "arguments": None}), 400, -32602, 7),
        (request(params={"name": "record", "arguments": "{}"}), 400, -32602, 7),
        (request(params={"name": "record", "task": 1}), 400, -32602, 7),
        (request(params={"name": "record", "requestState": {}}), 400, -32602, 7),
        (request(params={"name": "record", "URI": "x"}), 400, -32602, 7),
        (request(params={"name": "record", "_meta": {"ProgressToken": 1}}), 400, -32602, 7),
        (request("resources/read", params={"URI": "x"}), 400, -32602, 7),
        ({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a"}}, 400, -32600, None),
        ({"jsonrpc": "2.0", "method": "ping"}, 400, -32600, None),
        ({"jsonrpc": "2.0", "id": 7}, 400, -32600, 7),
        ({"jsonrpc": "2.0", "id": 7, "result": {}, "error": {}}, 400, -32600, 7),
        ({"jsonrpc": "2.0", "id": 7, "result": {}, "Method": "ping"}, 400, -32600, 7),
    ],
)
def test_a_refusal_has_its_status_its_code_and_the_id(
    body: Any, status: int, code: int, rpc_id: int | None
) -> None:
    fault = fault_of(body)
    assert (fault.http_status, fault.rpc_code, fault.rpc_id) == (status, code, rpc_id)


def in_arguments(text: str) -> bytes:
    call = '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":%s}}'
    return (call % text).encode()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("1e400", "too large"),
        ("-1e400", "too large"),
        ("1e-400", "precision"),
        ("0.1000000000000000055", "precision"),
        ("9007199254740993.0", "precision"),
        ("0e999999999", "precision"),
        ("0." + "1" * 99, "longer than 100"),
        ("9" * 30, "64 bits"),
        ("9223372036854775808", "64 bits"),
        ("-9223372036854775809", "64 bits"),
        ("9" * 5000, "strict JSON"),
        ("NaN", "strict JSON"),
        ("-Infinity", "strict JSON"),
    ],
)
def test_a_number_that_readers_round_differently_is_refused(number: str, said: str) -> None:
    for text in ('{"a":%s}', '{"a":[[%s]]}', '{"a":[{"b":%s}]}'):
        assert said in fault_of(in_arguments(text % number)).message


@pytest.mark.parametrize(
    "number",
    ["0.1", "1.50", "-0.0", "1E+2", "5e-324", "1.7976931348623157e308", "9007199254740993", "1e22"],
)
def test_a_number_that_every_reader_holds_is_kept_as_sent(number: str) -> None:
    message = legacy(in_arguments(f'{{"a":{number}}}'))
    assert isinstance(message, RequestMessage)
    assert str(tool_call(message).arguments["a"]) == number


@pytest.mark.parametrize(
    "members",
    [
        '"a":1,"A":2',
        '"aa":1,"a\\u0000a":2',
        '"\\u212a":1,"k":2',
        '"\u017f":1,"S":2',
        '"__proto__":1',
        '"b":2,"__proto__":{}',
    ],
)
def test_keys_that_some_reader_takes_for_others_are_refused_at_any_depth(members: str) -> None:
    for text in ("{%s}", '{"x":[{%s}]}', '{"x":{"y":{%s}}}'):
        assert fault_of(in_arguments(text % members)).rpc_code == -32602


def test_null_says_nothing_where_a_part_may_be_left_out() -> None:
    parts = {"task": None, "inputResponses": None, "requestState": None}
    message = legacy(request(params={"name": "record"} | parts))
    assert isinstance(message, RequestMessage)
    call = tool_call(message)
    assert (call.task, call.input_responses, call.request_state) == (None, None, None)


def test_depth_64_is_read_and_65_is_not() -> None:
    def nested(levels: int) -> bytes:
        # The message, its params and the arguments are the first three levels.
        deep = b'{"a":' * (levels - 3) + b"1" + b"}" * (levels - 3)
        return (
            b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"record","arguments":'
            b'{"a":' + deep + b"}}}"
        )

    assert isinstance(legacy(nested(64)), RequestMessage)
    assert "64 levels" in fault_of(nested(65)).message
    assert fault_of(nested(100_000)).rpc_code == -32700


def test_a_key_of_any_length_leaves_the_message_short() -> None:
    key = b'"' + b"k" * 1_000_000 + b'":1'
    assert len(fault_of(b"{" + key + b"," + key + b"}").message) < 300
    assert len(fault_of(b'{"jsonrpc":"2.0","id":7,"method":"ping",' + key + b"}").message) < 300


@pytest.mark.parametrize(
    "content_type",
    [b"text/plain", b"application/json; charset=utf-16", b"", b"application/json; a=b"],
)
def test_another_content_type_is_415(content_type: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        parse(json.dumps(request()).encode(), ((b"content-type", content_type),))
    assert caught.value.http_status == 415


@pytest.mark.parametrize(
    "content_type",
    [b"application/json;charset=UTF-8", b'Application/JSON; charset="utf-8"', b"application/json;"],
)
def test_json_in_utf_8_may_say_so(content_type: bytes) -> None:
    parse(json.dumps(request()).encode(), ((b"content-type", content_type),))


@pytest.mark.parametrize(
    "name",
    [b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"authorization"],
)
def test_a_routing_header_that_is_there_twice_is_refused(name: bytes) -> None:
    fault = fault_of(request(), (name, b"a"), (name, b"a"))
    assert fault.http_status == 400
    assert name.decode() in fault.message


def test_a_legacy_client_may_say_anything_in_the_modern_headers() -> None:
    message = legacy(request(), (b"mcp-method", b"ping"), (b"mcp-name", b"other"))
    assert message.era is Era.LEGACY


def test_era_version_and_session_come_from_the_headers() -> None:
    message = legacy(
        request("ping"), (b"mcp-protocol-version", b"2025-11-25"), (b"mcp-session-id", b"s1")
    )
    assert (message.era, message.version, message.session) == (Era.LEGACY, "2025-11-25", "s1")


@pytest.mark.parametrize("version", [b"2025-11-25", b"2026-07-29", None])
def test_header_and_body_must_name_one_revision(version: bytes | None) -> None:
    more = [] if version is None else [(b"mcp-protocol-version", version)]
    routed = ((b"mcp-method", b"tools/call"), (b"mcp-name", b"record"))
    fault = fault_of(modern_request(), *more, *routed)
    assert (fault.http_status, fault.rpc_code, fault.rpc_id) == (400, -32020, 7)


@pytest.mark.parametrize("version", [b"2026-07-28", b"2031-01-01"])
def test_a_modern_header_over_a_legacy_body_is_refused(version: bytes) -> None:
    fault = fault_of(request(), (b"mcp-protocol-version", version), (b"mcp-method", b"tools/call"))
    assert (fault.http_status, fault.rpc_code) == (400, -32602)


def test_a_revision_that_nobody_knows_is_left_to_the_server() -> None:
    meta = MODERN_META | {"io.modelcontextprotocol/protocolVersion": "1999-01-01"}
    message = legacy(
        modern_request(_meta=meta),
        (b"mcp-protocol-version", b"1999-01-01"),
        (b"mcp-method", b"tools/call"),
        (b"mcp-name", b"record"),
    )
    assert (message.era, message.version) == (Era.MODERN, "1999-01-01")


def test_the_routing_headers_must_repeat_the_body() -> None:
    for method, name in (("ping", "record"), ("tools/call", "other"), ("tools/call", None)):
        assert modern_fault_of(modern_request(), method, name).rpc_code == -32020
    assert modern_fault_of(modern_request(), "Tools/Call").rpc_code == -32020
    assert modern_fault_of(modern_request(), "tools/call", "Record").rpc_code == -32020
    body = modern_request("resources/read", uri="file:///a")
    assert modern_fault_of(body, "resources/read", "file:///b").rpc_code == -32020
    assert modern(body, "resources/read", "file:///a").era is Era.MODERN


def test_a_name_in_base64_is_compared_decoded() -> None:
    coded = f"=?base64?{base64.b64encode('süß'.encode()).decode()}?="
    assert isinstance(modern(modern_request(name="süß"), name=coded), RequestMessage)
    assert modern_fault_of(modern_request(), name=coded).rpc_code == -32020


@pytest.mark.parametrize("coded", ["YWJ=", "YWI", "YW I=", "/w==", "YWI=\n", ""])
def test_base64_that_is_not_canonical_names_nothing(coded: str) -> None:
    for name in ("ab", "\ufffd"):
        fault = modern_fault_of(modern_request(name=name), name=f"=?base64?{coded}?=")
        assert fault.rpc_code == -32020


def test_each_era_has_its_methods() -> None:
    for era, read in ((Era.LEGACY, legacy), (Era.MODERN, None)):
        for method in METHODS[era] - {"tools/call", "prompts/get", "resources/read"}:
            message = read(request(method)) if read else modern(modern_request(method), method)
            assert isinstance(message, RequestMessage)
    assert fault_of(request("subscriptions/listen")).http_status == 200
    for method in ("initialize", "ping", "logging/setLevel", "no/such", "notifications/a"):
        fault = modern_fault_of(modern_request(method), method)
        assert (fault.http_status, fault.rpc_code, fault.rpc_id) == (404, -32601, 7)


def test_notifications_and_answers_are_told_apart() -> None:
    note = legacy({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"a": 1}})
    assert isinstance(note, Notification)
    assert (note.method, note.params) == ("notifications/cancelled", {"a": 1})
    for part in ("result", "error"):
        message = legacy({"jsonrpc": "2.0", "id": "s-1", part: {}})
        assert isinstance(message, ClientResponse)
        assert message.id == "s-1"


def test_a_modern_client_does_not_answer() -> None:
    fault = modern_fault_of({"jsonrpc": "2.0", "id": 1, "result": {}})
    assert (fault.http_status, fault.rpc_code) == (400, -32600)


def test_folding_finds_what_lax_readers_take_for_one_name() -> None:
    for name in ("Name", "name\0", "\uff4eame", "NAME", "n\u0061me"):
        assert fold(name) == "name"
    assert fold("param\u017f") == "params"
    assert fold("\u212aey") == "key"
    assert fold("stra\u00dfe") == fold("STRASSE")
    assert fold("a_b") != fold("ab")


NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES.filter(lambda name: name != "__proto__"), inner, max_size=4)
    ),
    max_leaves=20,
)


def has_alike_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return len({fold(key) for key in value}) < len(value) or any(
            map(has_alike_keys, value.values())
        )
    return isinstance(value, list) and any(map(has_alike_keys, value))


def plain(value: Any) -> Any:
    """Return a parsed value with Python's own floats."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | None) else float(value)


@given(arguments=st.dictionaries(NAMES.filter(lambda name: name != "__proto__"), VALUES))
def test_what_is_written_is_read(arguments: dict[str, Any]) -> None:
    body = orjson.dumps(request(params={"name": "record", "arguments": arguments}))
    if has_alike_keys(arguments):
        assert "alike" in fault_of(body).message
        return
    message = legacy(body)
    assert isinstance(message, RequestMessage)
    assert plain(tool_call(message).arguments) == arguments


@given(body=st.binary() | st.text().map(str.encode) | VALUES.map(orjson.dumps))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (legacy, modern):
        with contextlib.suppress(BadMessage):
            read(body)


@given(
    message=st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"]),
        st.sampled_from(["2.0", "tools/call", 7, None, {}, [], {"name": "record"}]) | VALUES,
    )
)
def test_any_message_is_read_or_refused(message: dict[str, Any]) -> None:
    with contextlib.suppress(BadMessage):
        modern(orjson.dumps({"jsonrpc": "2.0", "method": "tools/call"} | message))
