"""Names of sessions, events, tasks and states: whose they are, and where they stand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.mcp.envelope import parse
from gateway.mcp.sse import EventScanner
from gateway.values import Caller, KeyId, ProjectId, Request, ServerId
from tests.mcp.builders import HANDLES, SEALS, a_caller, a_request, a_server

ME = a_caller(a_server(1))
OTHERS: dict[str, Caller] = {
    "project": replace(ME, project=replace(ME.project, id=ProjectId("prj_2"))),
    "key": replace(ME, key=replace(ME.key, id=KeyId("key_2"))),
    "server": replace(ME, server=replace(ME.server, id=ServerId("srv_2"))),
}
RELATED = "io.modelcontextprotocol/related-task"


def sealed(kind: Any, name: str, caller: Caller = ME) -> str:
    return SEALS.seal(kind, caller, name.encode()).decode()


def inward(caller: Caller, body: dict[str, Any], *headers: tuple[bytes, bytes]) -> Request:
    request = a_request(orjson.dumps({"jsonrpc": "2.0", "id": 1, **body}), *headers)
    return HANDLES.inward(caller, request, parse(request.body, request.headers))


def outward(message: dict[str, Any]) -> Any:
    return orjson.loads(HANDLES.body_outward(ME, orjson.dumps({"jsonrpc": "2.0", **message})))


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", ["session", "event", "task", "state"])
def test_a_name_opens_for_the_one_it_was_given_to_and_for_nobody_else(
    kind: Any, other: str
) -> None:
    name = SEALS.seal(kind, ME, b"abc")
    assert name == SEALS.seal(kind, ME, b"abc")
    assert SEALS.open(kind, ME, name) == b"abc"
    assert SEALS.open(kind, OTHERS[other], name) != b"abc"
    assert not SEALS.opens(kind, OTHERS[other], name)


def test_a_name_of_one_kind_is_none_of_another() -> None:
    assert not SEALS.opens("session", ME, SEALS.seal("task", ME, b"abc"))


@pytest.mark.parametrize("name", [b"abc", b"", b"=", b"\xff", b"abc=" * 9, b"a" * 22])
def test_what_nobody_was_given_becomes_a_name_that_the_upstream_never_gave(name: bytes) -> None:
    unknown = SEALS.open("session", ME, name)
    assert unknown != name
    assert unknown.isascii()
    assert unknown == SEALS.open("session", ME, name)


@pytest.mark.parametrize(
    ("header", "kind"), [(b"mcp-session-id", "session"), (b"last-event-id", "event")]
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_headers_are_opened_for_their_owner_only(header: bytes, kind: Any, method: str) -> None:
    given = sealed(kind, "abc").encode()
    request = a_request(b"", (header, given), method=method)
    mine = HANDLES.inward(ME, request, None)
    theirs = HANDLES.inward(OTHERS["key"], request, None)
    raw = HANDLES.inward(ME, a_request(b"", (header, b"abc"), method=method), None)
    assert dict(mine.headers)[header] == b"abc"
    assert dict(theirs.headers)[header] not in (b"abc", given)
    assert dict(raw.headers)[header] != b"abc"


def task_request(name: str) -> dict[str, Any]:
    return {"method": "tasks/get", "params": {"taskId": name, "n": 1.10}}


def test_a_task_is_its_owners_in_the_body_and_in_the_header() -> None:
    name = sealed("task", "tä")
    mine = inward(ME, task_request(name), (b"mcp-name", name.encode()))
    theirs = inward(OTHERS["project"], task_request(name))
    raw = inward(ME, task_request("tä"))
    assert orjson.loads(mine.body)["params"]["taskId"] == "tä"
    assert dict(mine.headers)[b"mcp-name"] == b"=?base64?dMOk?="
    assert orjson.loads(theirs.body)["params"]["taskId"] not in ("tä", name)
    assert orjson.loads(raw.body)["params"]["taskId"] != "tä"


LISTEN = {"method": "subscriptions/listen"}


@pytest.mark.parametrize(
    ("body", "find"),
    [
        (lambda name: task_request(name), lambda p: p["taskId"]),
        (
            lambda name: {"method": "tools/call", "params": {"name": "a", "requestState": name}},
            lambda p: p["requestState"],
        ),
        (
            lambda name: {"method": "tools/list", "params": {"_meta": {RELATED: {"taskId": name}}}},
            lambda p: p["_meta"][RELATED]["taskId"],
        ),
        (
            lambda name: {
                "method": "resources/read",
                "params": {"uri": "a:b", "requestState": name},
            },
            lambda p: p["requestState"],
        ),
    ],
)
def test_every_place_of_a_name_in_a_request_is_opened(
    body: Callable[[str], dict[str, Any]], find: Callable[[Any], str]
) -> None:
    kind = "state" if "requestState" in str(body("")) else "task"
    request = inward(ME, body(sealed(kind, "abc")))
    assert find(orjson.loads(request.body)["params"]) == "abc"


def test_a_name_under_an_escaped_key_is_opened_too() -> None:
    name = sealed("state", "abc").encode()
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
        b'"params":{"name":"a","request\\u0053tate":"%b"}}' % name
    )
    request = a_request(body)
    opened = HANDLES.inward(ME, request, parse(request.body, request.headers))
    assert orjson.loads(opened.body)["params"]["requestState"] == "abc"


def test_a_request_without_names_keeps_its_bytes() -> None:
    request = a_request(b'{"jsonrpc" : "2.0","id":1,"method":"tools/list"}')
    assert HANDLES.inward(ME, request, parse(request.body, request.headers)) is request


@pytest.mark.parametrize(
    ("message", "find", "kind"),
    [
        (
            {"id": 1, "result": {"requestState": "x"}},
            lambda m: m["result"]["requestState"],
            "state",
        ),
        ({"id": 1, "result": {"taskId": "x"}}, lambda m: m["result"]["taskId"], "task"),
        (
            {"id": 1, "result": {"task": {"taskId": "x"}}},
            lambda m: m["result"]["task"]["taskId"],
            "task",
        ),
        (
            {"id": 1, "result": {"tasks": [{}, {"taskId": "x"}]}},
            lambda m: m["result"]["tasks"][1]["taskId"],
            "task",
        ),
        (
            {"id": 1, "result": {"_meta": {RELATED: {"taskId": "x"}}}},
            lambda m: m["result"]["_meta"][RELATED]["taskId"],
            "task",
        ),
        (
            {"method": "notifications/tasks/status", "params": {"taskId": "x"}},
            lambda m: m["params"]["taskId"],
            "task",
        ),
        (
            {"id": 1, "method": "roots/list", "params": {"_meta": {RELATED: {"taskId": "x"}}}},
            lambda m: m["params"]["_meta"][RELATED]["taskId"],
            "task",
        ),
        (
            {
                "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": {"taskIds": ["x"]}},
            },
            lambda m: m["params"]["notifications"]["taskIds"][0],
            "task",
        ),
    ],
)  # fmt: skip
def test_every_place_of_a_name_in_an_answer_is_sealed(
    message: dict[str, Any], find: Callable[[Any], str], kind: Any
) -> None:
    assert find(outward(message)) == sealed(kind, "x")


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "result": {"content": [], "structuredContent": {"taskId": "x"}}},
        {"id": 1, "method": "tasks/get", "params": {"taskId": "the client's own"}},
        {"id": 1, "result": {"taskId": 7, "requestState": None, "tasks": "x"}},
        [],
        "taskId",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_name_is_left_byte_for_byte(message: Any) -> None:
    body = orjson.dumps(message, option=orjson.OPT_INDENT_2)
    assert HANDLES.body_outward(ME, body) is body


@pytest.mark.parametrize("key", [rb"task\u0049d", rb"\u0074askId", rb"request\u0053tate"])
def test_a_name_under_a_key_that_is_spelled_with_escapes_is_sealed_too(key: bytes) -> None:
    body = b'{"result":{"%b":"x"}}' % key
    kind = "state" if b"request" in key else "task"
    named = {"state": "requestState", "task": "taskId"}[kind]
    told = orjson.loads(HANDLES.body_outward(ME, body))
    assert told == {"result": {named: sealed(kind, "x")}}


def test_escapes_that_encoders_write_leave_the_bytes_alone() -> None:
    body = rb'{"result":{"text":"Z\u00fcrich \u003cb\u003e \u0026 \u000a \ud83d\ude00"}}'
    assert HANDLES.body_outward(ME, body) is body


def test_numbers_around_a_name_stay_as_they_were_written() -> None:
    body = b'{"result":{"taskId":"x","a":1.10,"b":123456789012345678901234567890,"c":1e2}}'
    assert HANDLES.body_outward(ME, body) == body.replace(
        b'"x"', b'"%b"' % sealed("task", "x").encode()
    )


def test_a_clients_answer_names_the_servers_task_or_one_of_its_own() -> None:
    def answer(name: str) -> dict[str, Any]:
        return {"result": {"_meta": {RELATED: {"taskId": name}}}}

    mine = inward(ME, answer(sealed("task", "abc")))
    own = inward(ME, answer("the client's own"))
    assert orjson.loads(mine.body)["result"]["_meta"][RELATED]["taskId"] == "abc"
    assert orjson.loads(own.body)["result"]["_meta"][RELATED]["taskId"] == "the client's own"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b": note", b"event: message"])
def test_event_ids_are_sealed_where_they_stand_and_nothing_else_is_touched(
    start: bytes, end: bytes
) -> None:
    mark = b"\xef\xbb\xbf"  # does not pass
    first = start + b"id: " if start in (b"", mark) else start + end + b"id: "
    rest = end + b'data: id: 7 {"id":1}' + end + b"idx: 8" + end + b"retry: 5" + end + end
    (event,) = EventScanner().feed(first + b"x/1" + rest)[:1]
    first = first.removeprefix(mark)
    expected = first + sealed("event", "x/1").encode() + event.raw[len(first + b"x/1") :]
    assert HANDLES.event_outward(ME, event).raw == expected


def test_a_priming_event_stays_one_and_an_empty_id_stays_empty() -> None:
    for raw in (b"id: x\ndata: \n\n", b"id:x\ndata:\n\n"):
        (event,) = EventScanner().feed(raw)
        renamed = HANDLES.event_outward(ME, event)
        assert renamed.raw == raw.replace(b"x", sealed("event", "x").encode())
        assert renamed.data == b""
    for raw in (b"id:\ndata: 1\n\n", b"id\ndata: 1\n\n", b": id: x\n\n"):
        (event,) = EventScanner().feed(raw)
        assert HANDLES.event_outward(ME, event) is event


def test_a_name_in_an_events_data_is_sealed_with_the_event_around_it() -> None:
    raw = b'event: message\nid: 3\ndata: {"result":\ndata: {"taskId":"x"}}\n\n'
    (event,) = EventScanner().feed(raw)
    renamed = HANDLES.event_outward(ME, event)
    assert orjson.loads(renamed.data)["result"]["taskId"] == sealed("task", "x")
    assert renamed.raw.startswith(b"event: message\nid: " + sealed("event", "3").encode())
