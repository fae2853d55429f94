"""Calls that wait for a person and are then carried out by the gateway: its own tasks."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.in_band.task_runs import TaskRuns
from gateway.in_band.tasks import open_request
from gateway.registry import agents, approvals, keys, stops, tasks
from gateway.registry.core import Actor
from gateway.registry.stops import NewStop
from gateway.values import Action, Fate, Forwarded, ProjectId, Request, Role
from tests import places
from tests.builders import SECRET, TOOL, World, a_body, a_request, a_state
from tests.in_band.test_approvals import decides, modern, read, told
from tests.pipeline_world import JSON_ANSWER, RESULT, Line, a_line

pytestmark = pytest.mark.anyio

TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
BY = Actor(ProjectId("prj_1"), "usr_1", "Ann", Role.ADMIN)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path / "data") as made:
        yield made


@pytest.fixture
def line(world: World) -> Line:
    made = a_line(world)
    made.policy.action = Action.REQUIRE_APPROVAL
    return made


@pytest.fixture
def runs(world: World, line: Line) -> TaskRuns:
    return TaskRuns(line.pipeline, world.state.registry)


async def settled(line: Line, runs: TaskRuns) -> None:
    """Until whatever is due has been carried out."""
    await runs.once()
    await line.quiet()


def about(method: str, task_id: str, declared: Any = None, **params: Any) -> Request:
    """A message of the modern era about a task."""
    asked = modern(TASKS if declared is None else declared)
    meta = orjson.loads(asked.body)["params"]["_meta"]
    params = {"taskId": task_id, "_meta": meta, **params}
    body = {"jsonrpc": "2.0", "id": 9, "method": method, "params": params}
    headers = {b"mcp-method": method.encode(), b"mcp-name": task_id.encode()}
    kept = tuple((name, headers.get(name, value)) for name, value in asked.headers)
    return replace(asked, headers=kept, body=orjson.dumps(body))


async def begun(line: Line, **params: Any) -> dict[str, Any]:
    task: dict[str, Any] = (await told(line, modern(TASKS, **params)))["result"]
    assert task["resultType"] == "task"
    return task


async def got(line: Line, task_id: str) -> dict[str, Any]:
    result: dict[str, Any] = (await told(line, about("tasks/get", task_id)))["result"]
    return result


async def test_an_approved_call_is_carried_out_and_its_result_kept(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    assert task["status"] == "working"
    assert task["pollIntervalMs"] >= 2000
    assert "/dashboard/approvals/apr_" in task["statusMessage"]
    await settled(line, runs)
    assert line.upstreams.sent == []
    await decides(world)
    await settled(line, runs)
    seen = await got(line, task["taskId"])
    assert seen["resultType"] == "complete"
    assert seen["status"] == "completed"
    assert seen["result"] == orjson.loads(RESULT)["result"]
    await settled(line, runs)
    assert len(line.upstreams.sent) == 1
    assert world.approvals() == [("APPROVED", line.upstreams.sent[0])]


async def test_what_is_kept_tells_neither_credential_nor_arguments(
    world: World, line: Line, runs: TaskRuns
) -> None:
    await begun(line, arguments={"object": "top-secret"})
    await decides(world)
    await settled(line, runs)
    ((request, result),) = world.rows("SELECT request_sealed, result_sealed FROM tasks")
    for kept in (request, result):
        assert b"top-secret" not in kept
        assert SECRET.encode() not in kept
        assert b"content" not in kept
    (row,) = world.rows("SELECT id FROM tasks")
    opened = world.state.registry.read_now(
        lambda c: tasks.find(c, "prj_1", row[0], world.state.clock.now())
    )
    assert opened is not None
    headers = open_request(world.state.keyring, opened).headers
    assert all(SECRET.encode() not in value for _, value in headers)


async def test_the_same_call_is_one_task_while_it_waits(line: Line) -> None:
    first, second = await begun(line), await begun(line)
    assert first["taskId"] == second["taskId"]
    other = await begun(line, arguments={"object": "Contact"})
    assert other["taskId"] != first["taskId"]


@pytest.mark.parametrize("verb", ["deny", "expire"])
async def test_a_task_that_is_not_approved_fails(
    world: World, line: Line, runs: TaskRuns, verb: str
) -> None:
    task = await begun(line)
    if verb == "deny":
        await decides(world, "deny")
    else:
        ((approval_id,),) = world.rows("SELECT id FROM approvals")
        world.set("approvals", approval_id, expires_at="2026-01-01T00:00:00.000000Z")
    await settled(line, runs)
    seen = await got(line, task["taskId"])
    assert seen["status"] == "failed"
    assert seen["error"]["code"] == -31004
    why = "approval_denied" if verb == "deny" else "approval_expired"
    assert seen["error"]["data"]["reason_code"] == why
    assert line.upstreams.sent == []


async def test_a_client_that_declares_no_tasks_gets_none_and_may_not_ask(line: Line) -> None:
    assert (await told(line, modern()))["error"]["code"] == -31004
    task = await begun(line)
    answer = await line.handle(about("tasks/get", task["taskId"], declared={}))
    assert answer.status == 400
    assert orjson.loads(answer.body)["error"]["code"] == -32021


async def test_another_key_does_not_know_the_task(world: World, line: Line) -> None:
    task = await begun(line)
    _, secret = await world.state.registry.change(
        BY,
        lambda ch: keys.create(
            ch,
            keys.NewKey.model_validate(
                {"role": "project", "name": "other", "owner": "x", "agent_id": "agt_1"}
            ),
        ),
    )
    asked = about("tasks/get", task["taskId"])
    headers = tuple(
        (name, f"Bearer {secret}".encode() if name == b"authorization" else value)
        for name, value in asked.headers
    )
    await line.handle(replace(asked, headers=headers))
    # Not ours, so it is its server's to say that there is none.
    assert line.upstreams.relayed == ["POST"]


@pytest.mark.parametrize("how", ["stop", "pause", "revoke"])
async def test_who_may_not_call_any_more_has_their_tasks_cancelled(
    world: World, line: Line, runs: TaskRuns, how: str
) -> None:
    await begun(line)
    await decides(world)
    registry = world.state.registry
    if how == "stop":
        new = NewStop(scope="all", reason="a drill")
        await registry.change(BY, lambda ch: stops.raise_stop(ch, new))
    elif how == "pause":
        await registry.change(BY, lambda ch: agents.move(ch, "agt_1", "pause"))
    else:
        await registry.change(BY, lambda ch: keys.revoke(ch, "key_1"))
    await settled(line, runs)
    assert line.upstreams.sent == []
    assert world.rows("SELECT state FROM tasks") == [("CANCELLED",)]


async def test_a_stop_cancels_what_runs_and_its_result_is_not_kept(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    answering, answered = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        answering.set()
        await answered.wait()

    line.upstreams.answering = slowly
    await runs.once()
    await answering.wait()
    new = NewStop(scope="agent", target_id="agt_1", reason="a drill")
    raised = await world.state.registry.change(BY, lambda ch: stops.raise_stop(ch, new))
    answered.set()
    await line.quiet()
    await world.state.registry.change(BY, lambda ch: stops.lift(ch, raised.row.id, "over"))
    seen = await got(line, task["taskId"])
    assert seen["status"] == "cancelled"
    await settled(line, runs)
    assert len(line.upstreams.sent) == 1


@pytest.mark.parametrize(
    ("action", "code"), [(Action.DENY, -31003), (Action.REQUIRE_APPROVAL, None)]
)
async def test_policy_is_asked_again_before_it_runs(
    world: World, line: Line, runs: TaskRuns, action: Action, code: int | None
) -> None:
    task = await begun(line)
    await decides(world)
    line.policy.action = action
    await settled(line, runs)
    seen = await got(line, task["taskId"])
    if code is None:
        assert seen["status"] == "completed"
    else:
        assert seen["status"] == "failed"
        assert seen["error"]["code"] == code
        assert line.upstreams.sent == []


async def test_a_task_whose_grant_another_call_spent_waits_for_another(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    assert await told(line, modern(TASKS)) == orjson.loads(RESULT)
    await settled(line, runs)
    assert (await got(line, task["taskId"]))["status"] == "working"
    assert [state for state, _ in world.approvals()] == ["APPROVED", "PENDING"]
    await decides(world)
    await settled(line, runs)
    assert (await got(line, task["taskId"]))["status"] == "completed"
    assert len(line.upstreams.sent) == 2


async def test_of_two_gateways_one_carries_it_out(world: World, line: Line) -> None:
    await begun(line)
    await decides(world)
    both = [TaskRuns(line.pipeline, world.state.registry) for _ in range(2)]
    await asyncio.gather(*(runs.once() for runs in both))
    await line.quiet()
    assert len(line.upstreams.sent) == 1
    assert len(world.approvals()) == 1


async def _crashed(world: World, line: Line, runs: TaskRuns, *, admitted: bool) -> None:
    """A gateway that claimed the task and died, before or after its call was admitted."""
    await decides(world)
    died = asyncio.Event()

    async def never() -> None:
        died.set()
        await asyncio.Event().wait()

    if admitted:
        line.upstreams.answering = never
    else:
        line.policy.meanwhile = never
    await runs.once()
    await died.wait()
    world.change(lambda c: c.exec_driver_sql("UPDATE tasks SET lease_until = '2026'"))


@pytest.mark.parametrize("admitted", [True, False])
async def test_a_crash_before_admission_is_made_good_and_after_it_is_told(
    world: World, line: Line, runs: TaskRuns, admitted: bool
) -> None:
    task = await begun(line)
    await _crashed(world, line, runs, admitted=admitted)
    heir = a_line(world)
    heir.policy.action = Action.REQUIRE_APPROVAL
    successor = TaskRuns(heir.pipeline, world.state.registry)
    await settled(heir, successor)
    await settled(heir, successor)
    seen = await got(heir, task["taskId"])
    if admitted:
        assert seen["status"] == "failed"
        assert seen["error"]["data"]["reason_code"] == "outcome_unknown"
        assert heir.upstreams.sent == []
    else:
        assert seen["status"] == "completed"
        assert len(heir.upstreams.sent) == 1
    for running in list(line.pipeline.running):
        running.cancel()
    await asyncio.gather(*line.pipeline.running, return_exceptions=True)


async def test_who_was_held_up_past_its_lease_does_not_send(
    world: World, line: Line, runs: TaskRuns
) -> None:
    await begun(line)
    await decides(world)

    async def held_up() -> None:
        for run in runs._running.values():
            run.ours_until = 0.0

    line.policy.meanwhile = held_up
    await settled(line, runs)
    assert line.upstreams.sent == []


async def test_a_cancelled_task_withdraws_its_question(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    answer = await told(line, about("tasks/cancel", task["taskId"]))
    assert answer["result"] == {"resultType": "complete"}
    assert (await got(line, task["taskId"]))["status"] == "cancelled"
    assert [state for state, _ in world.approvals()] == ["WITHDRAWN"]
    assert world.records("event")[-1]["event"] == "approval.withdrawn"
    await settled(line, runs)
    assert line.upstreams.sent == []
    # Asked again it is a new question, not one that somebody denied.
    again = await begun(line)
    assert again["taskId"] != task["taskId"]


async def test_a_running_task_that_is_cancelled_is_closed_at_its_server(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    answering = asyncio.Event()

    async def never() -> None:
        answering.set()
        await asyncio.Event().wait()

    line.upstreams.answering = never
    await runs.once()
    await answering.wait()
    await told(line, about("tasks/cancel", task["taskId"]))
    (run,) = runs._running.values()
    await runs.once()
    assert run.gone()
    assert (await got(line, task["taskId"]))["status"] == "cancelled"
    for running in list(line.pipeline.running):
        running.cancel()
    await asyncio.gather(*line.pipeline.running, return_exceptions=True)


async def test_a_streamed_answer_is_kept_like_any(world: World, line: Line, runs: TaskRuns) -> None:
    task = await begun(line)
    await decides(world)
    line.upstreams.answer = None
    await settled(line, runs)
    seen = await got(line, task["taskId"])
    assert seen["result"] == orjson.loads(RESULT)["result"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_what_a_response_policy_withholds_is_not_kept(world: World, streamed: bool) -> None:
    line = a_line(world, inspects=frozenset({("all", "")}))
    line.policy.action = Action.REQUIRE_APPROVAL
    if streamed:
        line.upstreams.answer = None
    task = await begun(line)
    await decides(world)
    await settled(line, TaskRuns(line.pipeline, world.state.registry))
    seen = await got(line, task["taskId"])
    assert seen["status"] == "failed"
    assert seen["error"]["code"] == -31009
    assert len(line.upstreams.sent) == 1


async def test_a_task_speaks_for_the_agent_that_its_call_named(
    world: World, line: Line, runs: TaskRuns
) -> None:
    change = world.change
    other = "INSERT INTO agents (id, project_id, name, owner, description, state, created_at) "
    other += "VALUES ('agt_2', 'prj_1', 'porter', 'olga', '', 'ACTIVE', '2026-01-01')"
    change(lambda c: c.exec_driver_sql(other))
    world.set("keys", "key_1", may_assert=["porter"])
    asked = modern(TASKS)
    await told(line, replace(asked, headers=(*asked.headers, (b"x-agent-id", b"porter"))))
    await decides(world)
    await settled(line, runs)
    (sent,) = line.upstreams.sent
    (record,) = world.records("decision", sent)
    assert (record["agent"], record["asserted"]) == ("agt_2", True)


async def test_a_tool_error_completes_and_a_protocol_error_fails(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    error = {"code": -32000, "message": "no"}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "error": error})
    line.upstreams.answer = replace(JSON_ANSWER, body=body)
    await settled(line, runs)
    seen = await got(line, task["taskId"])
    assert (seen["status"], seen["error"]) == ("failed", error)


async def test_what_its_tool_asks_is_asked_of_the_client(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    asks = {"k": {"method": "elicitation/create", "params": {"mode": "form"}}}
    result = {"resultType": "input_required", "inputRequests": asks, "requestState": "u"}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": result})
    line.upstreams.answer = Forwarded(Fate.ANSWERED, 200, JSON_ANSWER.headers, body=body)
    for round_ in (1, 2):
        await settled(line, runs)
        seen = await got(line, task["taskId"])
        assert seen["status"] == "input_required"
        assert seen["inputRequests"] == {f"{round_}.k": asks["k"]}
        late = about("tasks/update", task["taskId"], inputResponses={"0.k": {}})
        assert (await told(line, late))["error"]["code"] == -32602
        given = {f"{round_}.k": {"action": "accept", "content": {"n": round_}}}
        update = about("tasks/update", task["taskId"], inputResponses=given)
        assert (await told(line, update))["result"] == {"resultType": "complete"}
    line.upstreams.answer = JSON_ANSWER
    await settled(line, runs)
    assert (await got(line, task["taskId"]))["status"] == "completed"
    assert len(line.upstreams.sent) == 3
    assert len(world.approvals()) == 1


async def test_a_task_of_its_servers_own_is_asked_about_under_our_name(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    seals = line.pipeline.in_band.tasks._seals
    theirs = seals.seal("task", world.caller, b"upstream-1").decode()
    result = {"resultType": "task", "taskId": theirs, "status": "working"}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": result})
    line.upstreams.answer = replace(JSON_ANSWER, body=body)
    await settled(line, runs)
    asked: list[Request] = []

    async def relay(caller: Any, request: Request, **_: Any) -> Forwarded:
        asked.append(request)
        return replace(JSON_ANSWER, body=body)

    line.upstreams.relay = relay  # type: ignore[method-assign]
    seen = await got(line, task["taskId"])
    assert seen["taskId"] == task["taskId"]
    assert orjson.loads(asked[0].body)["params"]["taskId"] == "upstream-1"
    assert dict(asked[0].headers)[b"mcp-name"] == b"upstream-1"


async def test_a_client_that_takes_tasks_is_told_that_there_are_some(line: Line) -> None:
    capabilities: dict[str, Any] = {"tools": {}}
    result = {"resultType": "complete", "capabilities": capabilities, "cacheScope": "public"}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 9, "result": result})

    async def relay(*_: Any, **__: Any) -> Forwarded:
        return replace(JSON_ANSWER, body=body)

    line.upstreams.relay = relay  # type: ignore[method-assign]
    for declared in (TASKS, {}):
        asked = about("server/discover", "x", declared)
        got_back = await line.handle(asked)
        if declared:
            told_back = orjson.loads(got_back.body)["result"]
            assert told_back["capabilities"] == capabilities | TASKS
            assert told_back["cacheScope"] == "private"
        else:
            assert got_back.body == body


def legacy(method: str = "tools/call", **params: Any) -> Request:
    if method == "tools/call":
        request = orjson.loads(a_body(TOOL, {"object": "Account"}))
        request["params"]["task"] = {"ttl": 60_000}
        return a_request(orjson.dumps(request))
    return a_request(orjson.dumps({"jsonrpc": "2.0", "id": 3, "method": method, "params": params}))


async def test_a_legacy_call_with_a_task_gets_one_in_its_own_shape(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = (await told(line, legacy()))["result"]["task"]
    assert task["status"] == "working"
    assert task["ttl"] > 0
    seen = (await told(line, legacy("tasks/get", taskId=task["taskId"])))["result"]
    assert seen["taskId"] == task["taskId"]
    assert seen["status"] == "working"
    waiting = asyncio.create_task(told(line, legacy("tasks/result", taskId=task["taskId"])))
    await decides(world)
    await settled(line, runs)
    result = (await waiting)["result"]
    related = result["_meta"]["io.modelcontextprotocol/related-task"]
    assert related == {"taskId": task["taskId"]}
    assert result["content"] == []
    seen = (await told(line, legacy("tasks/get", taskId=task["taskId"])))["result"]
    assert seen["status"] == "completed"
    late = await told(line, legacy("tasks/cancel", taskId=task["taskId"]))
    assert late["error"]["code"] == -32602


async def test_a_legacy_task_is_cancelled_in_its_own_shape(world: World, line: Line) -> None:
    task = (await told(line, legacy()))["result"]["task"]
    seen = (await told(line, legacy("tasks/cancel", taskId=task["taskId"])))["result"]
    assert (seen["taskId"], seen["status"]) == (task["taskId"], "cancelled")
    over = await read(await line.handle(legacy("tasks/result", taskId=task["taskId"])))
    assert b"-32602" in over


async def test_a_task_that_cannot_be_opened_is_not_tried_for_ever(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    world.change(
        lambda c: c.exec_driver_sql(places.sql("UPDATE tasks SET request_sealed = zeroblob(64)"))
    )
    await settled(line, runs)
    assert (await got(line, task["taskId"]))["status"] == "cancelled"
    assert line.upstreams.sent == []


async def test_tasks_are_forgotten_when_their_time_is_over(
    world: World, line: Line, runs: TaskRuns
) -> None:
    task = await begun(line)
    await decides(world)
    await settled(line, runs)
    world.change(lambda c: c.exec_driver_sql("UPDATE tasks SET expires_at = '2026-01-01'"))
    answer = await told(line, about("tasks/get", task["taskId"]))
    assert answer["error"]["code"] == -32602
    now = world.state.clock.now()
    assert world.change(lambda c: tasks.forget(c, now)) == 1


async def test_a_restart_loses_no_task(tmp_path: Path) -> None:
    with a_state(tmp_path / "kept") as world:
        first = a_line(world)
        first.policy.action = Action.REQUIRE_APPROVAL
        task = await begun(first)
        await decides(world)
    with a_state(tmp_path / "kept") as world:
        second = a_line(world)
        second.policy.action = Action.REQUIRE_APPROVAL
        await settled(second, TaskRuns(second.pipeline, world.state.registry))
        assert (await got(second, task["taskId"]))["status"] == "completed"
        row = world.state.registry.read_now(lambda c: approvals.pending(c, "prj_1", "2026"))
        assert row == 0
