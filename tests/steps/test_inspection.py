"""What an answer is, for the caller and for the trace."""

import hashlib
from typing import cast

import orjson
import pytest

from gateway.flows import Ended
from gateway.mcp.screening import Screening
from gateway.records.calls import outcome_draft
from gateway.steps.inspection import MAX_RESULT, Inspected, Inspection, outcome_of_stream
from gateway.values import Fate, Forwarded
from tests.builders import a_call, a_caller, a_decision, a_permit, a_project, an_approved

OK = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'


class Events:
    """A stream of events that is over."""

    def __init__(self, response: bytes, ended: Ended) -> None:
        self.response = response
        self.ended = ended
        self.data = b""

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        pass


def inspected(body: bytes = OK, status: int = 200, warnings: tuple[str, ...] = ()) -> Inspected:
    headers = ((b"content-type", b"application/json"),)
    forwarded = Forwarded(Fate.ANSWERED, status, headers, body)
    return Inspection(cast(Screening, None)).inspect(a_permit(warnings=warnings), forwarded, 0.0)


def test_an_answer_goes_on_as_it_came_with_headers_that_say_where_it_is_traced() -> None:
    found = inspected(warnings=("bud_1", "bud_2"))
    assert found.answer.body is OK
    headers = dict(found.answer.headers)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-trace-id"].decode() == found.permit.call.id
    assert headers[b"x-trace-leaf"].decode() == found.permit.leaf.hex()
    assert headers[b"x-budget-warning"] == b"bud_1,bud_2"
    assert b"x-budget-warning" not in dict(inspected().answer.headers)


@pytest.mark.parametrize("deny_style", ["error", "result"])
def test_an_answer_of_the_gateways_own_warns_of_budgets_in_its_body_too(deny_style: str) -> None:
    call = a_call(caller=a_caller(project=a_project(deny_style=deny_style)))
    permit = a_permit(an_approved(a_decision(call)), warnings=("bud_1",))
    forwarded = Forwarded(Fate.UNKNOWN, reason="upstream_error")
    answer = Inspection(cast(Screening, None)).inspect(permit, forwarded, 0.0).answer
    assert dict(answer.headers)[b"x-budget-warning"] == b"bud_1"
    document = orjson.loads(answer.body)
    told = document["error"]["data"] if deny_style == "error" else document["result"]["_meta"]
    assert b'"budget_warnings":["bud_1"]' in orjson.dumps(told)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (OK, "ok"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":false}}', "ok"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}', "tool_error"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"isE\\u0072ror":true}}', "tool_error"),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no"}}', "rpc_error"),
        (b'{"jsonrpc":"2.0","id":1,"e\\u0072ror":{"code":-1}}', "rpc_error"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"note":"\\"error\\""}}', "ok"),
        (b'{"jsonrpc":"2.0","id":1,"result":{"error":"of the tool\'s own"}}', "ok"),
        (b' \r\n{"result":{}}', "ok"),
        (b"", "unknown"),
        (b"<html>", "unknown"),
        (b'["error"]', "unknown"),
        (b'{"error"', "unknown"),
    ],
)
def test_the_trace_is_told_what_kind_of_answer_it_was(body: bytes, status: str) -> None:
    outcome = inspected(body).outcome
    assert (outcome.fate, outcome.status, outcome.result) == (Fate.ANSWERED, status, body)


def test_a_status_that_is_no_success_is_an_http_error() -> None:
    assert inspected(status=500).outcome.status == "http_error"


def test_an_answer_of_the_gateways_own_says_that_nothing_was_sent() -> None:
    forwarded = Forwarded(Fate.NOT_FORWARDED, 404, body=b"{}")
    screening = cast(Screening, None)
    found = Inspection(screening).inspect(a_permit(), forwarded, 0.0)
    assert (found.answer.status, found.answer.body) == (404, b"{}")
    assert (found.outcome.fate, found.outcome.status) == (Fate.NOT_FORWARDED, "not_sent")


def test_a_result_over_a_mebibyte_is_kept_in_part_and_passed_on_whole() -> None:
    body = b"{" + b" " * MAX_RESULT + b"}"
    found = inspected(body)
    assert found.answer.body == body
    assert (len(found.outcome.result), found.outcome.result_size) == (MAX_RESULT, len(body))
    assert found.outcome.result_sha256 == hashlib.sha256(body).hexdigest()
    recorded = outcome_draft(found.permit, found.outcome).fields
    assert recorded["truncated"] is True
    assert recorded["result_sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("forwarded", "status", "code"),
    [
        (Forwarded(Fate.NOT_FORWARDED, reason="upstream_unreachable"), "not_sent", -31007),
        (Forwarded(Fate.UNKNOWN, reason="upstream_error"), "unknown", -31006),
        (Forwarded(Fate.ANSWERED, 401, reason="upstream_auth"), "http_error", -31006),
    ],
)
def test_no_answer_to_relay_is_an_error_with_the_calls_id(
    forwarded: Forwarded, status: str, code: int
) -> None:
    found = Inspection(cast(Screening, None)).inspect(a_permit(), forwarded, 0.0)
    body = orjson.loads(found.answer.body)
    assert (found.answer.status, body["id"], body["error"]["code"]) == (200, 1, code)
    assert (found.outcome.fate, found.outcome.status) == (forwarded.fate, status)
    assert found.outcome.error_code == forwarded.reason


@pytest.mark.parametrize(
    ("stream", "fate", "status", "code"),
    [
        (Events(OK, "complete"), Fate.ANSWERED, "ok", ""),
        (Events(OK, "cut"), Fate.ANSWERED, "ok", ""),
        (Events(b"", "complete"), Fate.UNKNOWN, "unknown", "stream_complete"),
        (Events(b"", "broken"), Fate.UNKNOWN, "unknown", "stream_broken"),
        (Events(b"", "closed"), Fate.UNKNOWN, "unknown", "stream_closed"),
        (Events(b"", ""), Fate.UNKNOWN, "unknown", "stream_closed"),
        (Events(b"", "cut"), Fate.UNKNOWN, "cut", "stream_cut"),
        (Events(b"", "oversize"), Fate.ANSWERED, "unknown", "answer_too_large"),
    ],
)
def test_a_stream_is_answered_once_its_response_came_by_and_unknown_until_then(
    stream: Events, fate: Fate, status: str, code: str
) -> None:
    forwarded = Forwarded(Fate.ANSWERED, 200, (), stream=stream)
    found = Inspection(cast(Screening, None)).inspect(a_permit(), forwarded, 0.0)
    assert found.events is stream
    outcome = outcome_of_stream(found, stream)
    assert (outcome.fate, outcome.status, outcome.error_code) == (fate, status, code)
