"""A call that waits for a person, on the agent's side: by what its client declared."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.clock import after
from gateway.registry import approvals, stops
from gateway.registry.approvals import Verb
from gateway.registry.core import Actor
from gateway.registry.stops import NewStop
from gateway.values import Action, Answer, Caller, Fate, Forwarded, ProjectId, Request, Role
from tests.builders import TOOL, World, a_request, a_state
from tests.pipeline_world import JSON_ANSWER, PUBLIC_URL, RESULT, Line, a_line

pytestmark = pytest.mark.anyio

META = "io.modelcontextprotocol/"
PAGES: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
ASKS = {"inputRequests": {"k": {"method": "elicitation/create", "params": {}}}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path / "data") as made:
        yield made


@pytest.fixture
def line(world: World) -> Line:
    made = a_line(world)
    made.policy.action = Action.REQUIRE_APPROVAL
    return made


def modern(declared: dict[str, Any] | None = None, **params: Any) -> Request:
    meta = {
        f"{META}protocolVersion": "2026-07-28",
        f"{META}clientCapabilities": declared or {},
    }
    params = {"name": TOOL, "arguments": {"object": "Account"}} | params
    params["_meta"] = meta | params.get("_meta", {})
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    request = a_request(orjson.dumps(body))
    headers = (
        (b"mcp-protocol-version", b"2026-07-28"),
        (b"mcp-method", b"tools/call"),
        (b"mcp-name", TOOL.encode()),
    )
    return replace(request, headers=request.headers + headers)


async def read(answer: Answer) -> bytes:
    if answer.stream is None:
        return answer.body
    return b"".join([chunk async for chunk in answer.stream])


async def told(line: Line, request: Request) -> dict[str, Any]:
    """The JSON-RPC message that the client gets, however it is sent."""
    raw = await read(await line.handle(request))
    data = [part[6:] for part in raw.split(b"\n") if part.startswith(b"data: ")]
    message: dict[str, Any] = orjson.loads(data[-1] if data else raw)
    return message


async def decides(world: World, verb: Verb = "approve", person: str = "Ann") -> str:
    ((approval_id,),) = world.rows("SELECT id FROM approvals ORDER BY id DESC LIMIT 1")
    by = Actor(ProjectId("prj_1"), "usr_1", person, Role.APPROVER)
    await world.state.registry.change(by, lambda ch: approvals.decide(ch, approval_id, verb))
    return str(approval_id)


async def test_a_client_that_declares_nothing_is_told_where_to_poll(line: Line) -> None:
    error = (await told(line, modern()))["error"]
    assert error["code"] == -31004
    approval_id = error["data"]["approval_id"]
    assert error["data"]["poll"] == f"/api/v1/approvals/status?approval_id={approval_id}"
    assert error["data"]["expires_at"]


@pytest.mark.parametrize("declared", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}])
async def test_a_client_that_shows_no_pages_gets_none(line: Line, declared: Any) -> None:
    assert (await told(line, modern(declared)))["error"]["code"] == -31004


async def test_a_page_and_a_state_lead_to_the_result(world: World, line: Line) -> None:
    result = (await told(line, modern(PAGES)))["result"]
    assert result["resultType"] == "input_required"
    asked = result["inputRequests"]["approval"]["params"]
    ((approval_id,),) = world.rows("SELECT id FROM approvals")
    assert asked["mode"] == "url"
    assert asked["url"] == f"{PUBLIC_URL}/dashboard/approvals/{approval_id}"
    await decides(world)
    retry = modern(
        PAGES,
        requestState=result["requestState"],
        inputResponses={"approval": {"action": "accept"}},
    )
    assert (await told(line, retry)) == orjson.loads(RESULT)
    assert world.approvals() == [("APPROVED", line.upstreams.sent[0])]
    # Nothing of ours reaches the tool, nor the digest of another approval.
    again = (await told(line, retry))["result"]
    assert again["resultType"] == "input_required"
    assert len(line.upstreams.sent) == 1


async def test_a_retry_waits_for_the_decision(world: World) -> None:
    line = a_line(world, retry_seconds=60)
    line.policy.action = Action.REQUIRE_APPROVAL
    result = (await told(line, modern(PAGES)))["result"]
    retry = asyncio.create_task(told(line, modern(PAGES, requestState=result["requestState"])))
    await asyncio.sleep(0)
    await decides(world)
    assert (await retry) == orjson.loads(RESULT)


@pytest.mark.parametrize("change", ["another", "altered", "tool"])
async def test_a_state_approves_no_other_call(world: World, line: Line, change: str) -> None:
    state = (await told(line, modern(PAGES)))["result"]["requestState"]
    await decides(world)
    params: dict[str, Any] = {"requestState": state}
    if change == "another":
        params["arguments"] = {"object": "Contact"}
    elif change == "altered":
        params["requestState"] = state[:-4] + ("AAAA" if state[-4:] != "AAAA" else "BBBB")
    else:
        params["_meta"] = {"purpose": "another"}
    answer = await told(line, modern(**params))
    assert answer["error"]["code"] == -31004
    assert line.upstreams.sent == []


async def _begins(line: Line, capabilities: dict[str, Any]) -> bytes:
    """A legacy session; what its client is given as its name."""

    async def relay(caller: Caller, request: Request, **_: Any) -> Forwarded:
        headers = line.pipeline.handles.headers_outward(
            caller, ((b"mcp-session-id", b"s1"),), shows_pages=request.shows_pages
        )
        return replace(JSON_ANSWER, headers=(*JSON_ANSWER.headers, *headers))

    line.upstreams.relay = relay  # type: ignore[method-assign]
    params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {}}
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = await line.handle(a_request(orjson.dumps(body)))
    # A later answer names the session as the first did: clients take up the latest name.
    session = dict(answer.headers)[b"mcp-session-id"]
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    later = await line.handle(within(a_request(orjson.dumps(ping)), session))
    assert dict(later.headers)[b"mcp-session-id"] == session
    return session


def within(request: Request, session: bytes) -> Request:
    return replace(request, headers=(*request.headers, (b"mcp-session-id", session)))


async def test_a_legacy_session_that_declared_pages_gets_the_error_of_its_revision(
    tmp_path: Path,
) -> None:
    with a_state(tmp_path / "kept") as world:
        first = a_line(world)
        with_pages, without = await _begins(first, PAGES), await _begins(first, {})
        assert with_pages != without
    # What a client declared once outlives the gateway that it declared it to.
    with a_state(tmp_path / "kept") as world:
        line = a_line(world)
        line.policy.action = Action.REQUIRE_APPROVAL
        error = (await told(line, within(a_request(), with_pages)))["error"]
        assert error["code"] == -32042
        (page,) = error["data"]["elicitations"]
        assert page["url"].startswith(PUBLIC_URL)
        assert page["elicitationId"] == error["data"]["approval_id"]
        for session in (without, b"s1"):
            assert (await told(line, within(a_request(), session)))["error"]["code"] == -31004


@pytest.fixture
def patient(world: World) -> Line:
    made = a_line(world, hold_seconds=60)
    made.policy.action = Action.REQUIRE_APPROVAL
    return made


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_held_call_runs_once_it_is_approved(world: World, patient: Line, era: str) -> None:
    request = a_request() if era == "legacy" else modern(_meta={"progressToken": 7})
    answer = await patient.handle(request)
    assert dict(answer.headers)[b"content-type"] == b"text/event-stream"
    stream = answer.stream
    assert stream is not None
    first = await stream.__anext__()
    assert first.startswith(b":") or b"notifications/progress" in first
    assert (b"notifications/progress" in first) == (era == "modern")
    assert patient.upstreams.sent == []
    await decides(world)
    rest = b"".join([chunk async for chunk in stream])
    assert rest.rstrip().endswith(b"data: " + RESULT)
    assert len(patient.upstreams.sent) == 1


async def test_a_held_call_is_refused_once_it_is_denied(world: World, patient: Line) -> None:
    answer = await patient.handle(a_request())
    await decides(world, "deny")
    assert b'"reason_code":"approval_denied"' in await read(answer)
    assert patient.upstreams.sent == []


async def test_an_emergency_stop_ends_a_held_call(world: World, patient: Line) -> None:
    answer = await patient.handle(a_request())
    by = Actor(ProjectId("prj_1"), "usr_1", "Ann", Role.APPROVER)
    new = NewStop(scope="all", reason="a drill")
    await world.state.registry.change(by, lambda change: stops.raise_stop(change, new))
    assert b"-31001" in await read(answer)


async def test_a_held_call_ends_with_the_gateway_or_its_caller(patient: Line) -> None:
    left = await patient.handle(a_request())
    assert left.stream is not None
    await left.stream.__anext__()
    await left.stream.aclose()
    answer = await patient.handle(a_request())
    patient.pipeline.in_band.close()
    assert b"-31004" in await read(answer)
    assert patient.upstreams.sent == []


@pytest.mark.parametrize("begun", [True, False])
async def test_a_call_that_its_client_abandons_is_no_question_any_more(
    world: World, patient: Line, begun: bool
) -> None:
    stream = (await patient.handle(modern())).stream
    assert stream is not None
    if begun:
        await stream.__anext__()
    await stream.aclose()
    assert world.approvals() == [("WITHDRAWN", None)]
    (event,) = world.records("event")
    assert event["event"] == "approval.withdrawn"
    # Another try is another question: nobody denied this one.
    again = (await patient.handle(modern())).stream
    assert again is not None
    await again.__anext__()
    assert [state for state, _ in world.approvals()] == ["WITHDRAWN", "PENDING"]
    await decides(world)
    assert b"".join([chunk async for chunk in again]).rstrip().endswith(RESULT)
    await again.aclose()
    assert world.approvals()[1] == ("APPROVED", patient.upstreams.sent[0])


async def test_a_request_that_is_sent_again_keeps_its_question(world: World, patient: Line) -> None:
    """A client whose request broke off may be back before that is noticed."""
    first, second = (await patient.handle(modern())).stream, (await patient.handle(modern())).stream
    assert first is not None
    assert second is not None
    await second.__anext__()
    await first.aclose()
    assert world.approvals() == [("PENDING", None)]
    await decides(world)
    assert b"".join([chunk async for chunk in second]).rstrip().endswith(RESULT)
    await second.aclose()
    assert not patient.pipeline.in_band.holding


async def test_a_legacy_client_that_hangs_up_cancels_nothing(world: World, patient: Line) -> None:
    stream = (await patient.handle(a_request())).stream
    assert stream is not None
    await stream.__anext__()
    await stream.aclose()
    assert world.approvals() == [("PENDING", None)]


async def test_who_polls_waits_still_when_a_second_caller_hangs_up(
    world: World, patient: Line
) -> None:
    plain = modern()
    polls = tuple((n, b"application/json" if n == b"accept" else v) for n, v in plain.headers)
    assert (await told(patient, replace(plain, headers=polls)))["error"]["code"] == -31004
    stream = (await patient.handle(plain)).stream
    assert stream is not None
    await stream.aclose()
    assert world.approvals() == [("PENDING", None)]


def input_required(state: str | None = "upstream-state") -> Forwarded:
    result: dict[str, Any] = {"resultType": "input_required", **ASKS}
    if state is not None:
        result["requestState"] = state
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": result})
    return Forwarded(Fate.ANSWERED, 200, ((b"content-type", b"application/json"),), body=body)


async def approved_and_asking(world: World, line: Line, state: str | None = "u") -> str:
    """An approved call whose tool asks for input: the state that the client then has."""
    line.upstreams.answer = input_required(state)
    await told(line, modern())
    await decides(world)
    result = (await told(line, modern()))["result"]
    assert result["inputRequests"] == ASKS["inputRequests"]
    return str(result["requestState"])


@pytest.mark.parametrize("upstream_state", ["u", None])
async def test_an_approved_call_goes_on_under_its_approval(
    world: World, line: Line, upstream_state: str | None
) -> None:
    state = await approved_and_asking(world, line, upstream_state)
    line.upstreams.answer = JSON_ANSWER
    answered = {"k": {"action": "accept", "content": {"n": 1}}}
    retry = modern(requestState=state, inputResponses=answered)
    assert (await told(line, retry)) == orjson.loads(RESULT)
    assert len(world.approvals()) == 1
    assert len(line.upstreams.sent) == 2
    # Each round is good for one call.
    assert (await told(line, retry))["error"]["code"] == -31004
    assert len(line.upstreams.sent) == 2


async def test_each_round_leads_to_the_next(world: World, line: Line) -> None:
    state = await approved_and_asking(world, line)
    for _ in range(3):
        answer = await told(line, modern(requestState=state, inputResponses={"k": {}}))
        state = answer["result"]["requestState"]
    assert len(line.upstreams.sent) == 4
    assert len(world.approvals()) == 1


async def test_policy_is_asked_again_in_each_round(world: World, line: Line) -> None:
    state = await approved_and_asking(world, line)
    line.policy.action = Action.DENY
    retry = modern(requestState=state, inputResponses={"k": {}})
    assert (await told(line, retry))["error"]["code"] == -31003


@pytest.mark.parametrize("settled", [True, False])
async def test_what_a_stop_voided_does_not_go_on(world: World, line: Line, settled: bool) -> None:
    state = await approved_and_asking(world, line)
    if settled:  # or else the call is most likely still under way
        await line.quiet()
        assert world.open_calls() == []
    by = Actor(ProjectId("prj_1"), "usr_1", "Ann", Role.ADMIN)
    new = NewStop(scope="all", reason="a drill")
    raised = await world.state.registry.change(by, lambda ch: stops.raise_stop(ch, new))
    await world.state.registry.change(by, lambda ch: stops.lift(ch, raised.row.id, "over"))
    line.upstreams.answer = JSON_ANSWER
    retry = modern(requestState=state, inputResponses={"k": {}})
    assert (await told(line, retry))["error"]["code"] == -31004
    assert len(line.upstreams.sent) == 1


async def test_what_was_approved_too_long_ago_does_not_go_on(world: World, line: Line) -> None:
    state = await approved_and_asking(world, line)
    clock = world.state.clock
    clock.not_before(after(clock.now(), world.caller.project.approval_ttl_seconds))
    line.upstreams.answer = JSON_ANSWER
    retry = modern(requestState=state, inputResponses={"k": {}})
    assert (await told(line, retry))["error"]["code"] == -31004
    assert len(line.upstreams.sent) == 1


async def test_a_round_that_was_not_sent_may_be_tried_again(world: World, line: Line) -> None:
    state = await approved_and_asking(world, line)
    line.upstreams.answer = JSON_ANSWER
    retry = modern(requestState=state, inputResponses={"k": {}})
    gone = replace(retry, gone=lambda: True)
    await told(line, gone)
    await line.quiet()
    assert (await told(line, retry)) == orjson.loads(RESULT)
    assert len(line.upstreams.sent) == 2


async def test_an_approved_stream_that_asks_goes_on_too(world: World, line: Line) -> None:
    await told(line, modern())
    await decides(world)
    line.upstreams.answer = None
    answer = await line.handle(modern())
    asking = input_required().body or b""
    line.upstreams.streams[0].left[-1] = b"event: message\ndata: " + asking + b"\n\n"
    raw = await read(answer)
    message = orjson.loads(raw.split(b"data: ")[-1])
    line.upstreams.answer = JSON_ANSWER
    retry = modern(requestState=message["result"]["requestState"], inputResponses={"k": {}})
    assert (await told(line, retry)) == orjson.loads(RESULT)
