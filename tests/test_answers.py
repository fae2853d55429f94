"""What the gateway itself says to an MCP client: the right status, the id, and what to do next."""

from dataclasses import replace

import orjson
import pytest

from gateway import answers
from gateway.mcp.strictness import BadMessage
from gateway.refusals import REASONS, Refused, Unauthenticated
from gateway.values import Call, Era
from tests.builders import a_call, a_project


def in_style(style: str, era: Era = Era.LEGACY) -> Call:
    call = a_call(era=era, rpc_id="seven")
    caller = replace(call.caller, project=a_project(deny_style=style))
    return replace(call, caller=caller)


@pytest.mark.parametrize("reason", REASONS)
def test_every_refusal_of_a_call_bears_its_id_code_reason_and_trace(reason: str) -> None:
    refused = Refused(reason, {"policy_ids": ["p"]}, detail="for operators only", leaf=b"\x01" * 32)
    answer = answers.refused_call(in_style("error"), refused, "trc_1")
    assert answer.status == {"trace_unavailable": 503, "header_mismatch": 400}.get(reason, 200)
    body = orjson.loads(answer.body)
    assert (body["jsonrpc"], body["id"]) == ("2.0", "seven")
    assert body["error"]["code"] == REASONS[reason].code
    assert body["error"]["data"] == {
        "policy_ids": ["p"],
        "reason_code": reason,
        "retryable": REASONS[reason].retryable != "no",
        "trace_id": "trc_1",
    }
    assert b"for operators only" not in answer.body
    headers = dict(answer.headers)
    assert (headers[b"x-trace-id"], headers[b"x-trace-leaf"]) == (b"trc_1", b"01" * 32)


def test_codes_lie_outside_what_json_rpc_and_mcp_reserve() -> None:
    theirs = {"invalid_arguments", "header_mismatch"}
    ours = {reason.code for name, reason in REASONS.items() if name not in theirs}
    assert all(not -32768 <= code <= -32000 for code in ours)


def test_what_the_caller_says_of_itself_cannot_be_put_in_the_gateways_mouth() -> None:
    refused = Refused("policy_denied", {"reason_code": "allowed", "retryable": True})
    data = answers.error_data(refused, "trc_1")
    assert (data["reason_code"], data["retryable"]) == ("policy_denied", False)


@pytest.mark.parametrize(("era", "says_its_type"), [(Era.LEGACY, False), (Era.MODERN, True)])
def test_a_project_may_have_refusals_as_results(era: Era, says_its_type: bool) -> None:
    answer = answers.refused_call(in_style("result", era), Refused("policy_denied"), "trc_1")
    body = orjson.loads(answer.body)
    assert "error" not in body
    assert body["result"]["isError"] is True
    assert body["result"]["content"] == [{"type": "text", "text": "Denied by policy."}]
    assert body["result"]["_meta"][answers.META_KEY]["reason_code"] == "policy_denied"
    assert ("resultType" in body["result"]) == says_its_type


def test_bad_arguments_are_an_error_in_either_style_and_say_what_is_wrong() -> None:
    refused = Refused("invalid_arguments", {"fault": "object is no string"})
    error = orjson.loads(answers.refused_call(in_style("result"), refused, "t").body)["error"]
    assert error["code"] == -32602
    assert error["message"].endswith("object is no string")


@pytest.mark.parametrize("style", ["error", "result"])
def test_a_header_that_lies_is_answered_as_the_protocol_says(style: str) -> None:
    answer = answers.refused_call(in_style(style), Refused("header_mismatch"), "trc_1")
    assert answer.status == 400
    assert orjson.loads(answer.body)["error"]["code"] == -32020


def test_a_message_without_an_id_is_refused_by_status() -> None:
    refused = Refused("emergency_stop")
    assert answers.refused_message(None, refused).status == 403
    assert answers.refused_message(1, refused).status == 200
    assert answers.failed_message(None, "upstream_error").status == 502
    assert answers.failed_message(1, "upstream_error").status == 200


def test_a_bad_message_has_the_status_and_the_id_that_could_be_read() -> None:
    answer = answers.bad_message(BadMessage(400, -32700, "no JSON", None))
    error = {"code": -32700, "message": "no JSON"}
    assert answer.status == 400
    assert orjson.loads(answer.body) == {"jsonrpc": "2.0", "id": None, "error": error}


def test_whoever_may_not_is_told_by_status_and_headers() -> None:
    answer = answers.unauthenticated(Unauthenticated(401, "no", "Bearer realm=x"))
    assert (answer.status, dict(answer.headers)[b"www-authenticate"]) == (401, b"Bearer realm=x")
    answer = answers.unauthenticated(Unauthenticated(429, "slow down", retry_after=3))
    assert dict(answer.headers)[b"retry-after"] == b"3"
    assert orjson.loads(answer.body)["error"]["code"] == -31011
