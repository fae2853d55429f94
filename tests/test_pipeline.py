"""One tool call, top to bottom: which step stops it, what is told, what is traced, what is sent."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, event, select

from gateway.edge import TokenBuckets
from gateway.mcp.seals import Seals
from gateway.refusals import REASONS, Refused
from gateway.registry import pins
from gateway.registry.pins import Findings
from gateway.registry.stop_file import StopFile
from gateway.store import tables
from gateway.values import Action, Answer, Call, Decision, Fate, Forwarded, Pinned, Request, Risk
from tests import places
from tests.builders import SECRET, TOOL, World, a_body, a_request, a_state
from tests.pipeline_world import JSON_ANSWER, RESULT, Line, a_line

pytestmark = pytest.mark.anyio

Arrange = Callable[[Line], None]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with a_state(tmp_path) as world:
        yield a_line(world)


@pytest.fixture
def world(line: Line) -> World:
    return line.world


def header(answer: Answer, name: bytes) -> str:
    return dict(answer.headers)[name].decode()


def error(answer: Answer) -> dict[str, Any]:
    body = orjson.loads(answer.body)
    assert body["id"] == 1
    found: dict[str, Any] = body["error"]
    return found


def set_row(table: str, row_id: str, **values: Any) -> Arrange:
    return lambda line: line.world.set(table, row_id, **values)


def meanwhile(arrange: Arrange) -> Arrange:
    """It happens while the policy is asked: the steps before it saw nothing of it."""

    def when_asked(line: Line) -> None:
        async def happen() -> None:
            arrange(line)

        line.policy.meanwhile = happen

    return when_asked


def policy_says(action: Action) -> Arrange:
    def say(line: Line) -> None:
        line.policy.action = action

    return say


def policy_raises(fault: Exception) -> Arrange:
    def arrange(line: Line) -> None:
        async def fail() -> None:
            raise fault

        line.policy.meanwhile = fail

    return arrange


def a_stop(line: Line) -> None:
    line.world.add_stop()


def no_budget(line: Line) -> None:
    line.world.add_budget(0)


def budget_filled_meanwhile(line: Line) -> None:
    budget = line.world.add_budget(1)
    window = line.world.budgets[0].window_at(line.world.state.clock.now())

    def fill(connection: Connection) -> None:
        sql = places.sql("INSERT INTO budget_windows VALUES (?, ?, 1, 0, 0)")
        connection.exec_driver_sql(sql, (budget, window))

    meanwhile(lambda line: line.world.change(fill))(line)


ORDINARY = a_body()

# Where it stops: a step's name, or `admit`. What is left: the trace's `decision` of the call.
REFUSALS: dict[str, tuple[Arrange, bytes, str, str]] = {
    "stopped": (a_stop, ORDINARY, "emergency_stop", "DENY"),
    "agent paused": (set_row("agents", "agt_1", state="PAUSED"), ORDINARY, "agent_paused", "DENY"),
    "server blocked": (
        set_row("servers", "srv_1", status="BLOCKED"),
        ORDINARY,
        "server_blocked",
        "DENY",
    ),
    "server pending": (
        set_row("servers", "srv_1", status="PENDING_APPROVAL"),
        ORDINARY,
        "server_pending",
        "DENY",
    ),
    "tool unknown": (lambda _: None, a_body("other"), "unknown_tool", "DENY"),
    "tool changed": (set_row("tools", "tol_1", pin="CHANGED"), ORDINARY, "tool_changed", "DENY"),
    "tool suspect": (set_row("tools", "tol_1", pin="SUSPECT"), ORDINARY, "tool_changed", "DENY"),
    "tool new": (set_row("tools", "tol_1", pin="PENDING"), ORDINARY, "tool_pending", "DENY"),
    "tool gone": (set_row("tools", "tol_1", pin="GONE"), ORDINARY, "tool_gone", "DENY"),
    "arguments of another type": (
        lambda _: None,
        a_body(arguments={"object": 5}),
        "invalid_arguments",
        "DENY",
    ),
    "policy denies": (policy_says(Action.DENY), ORDINARY, "policy_denied", "DENY"),
    "policy engine away": (
        policy_raises(Refused("policy_unavailable")),
        ORDINARY,
        "policy_unavailable",
        "DENY",
    ),
    "too large": (
        policy_raises(Refused("too_large_to_decide")),
        ORDINARY,
        "too_large_to_decide",
        "DENY",
    ),
    "fault in a step": (policy_raises(LookupError("bug")), ORDINARY, "internal", "DENY"),
    "budget used up": (no_budget, ORDINARY, "budget_exceeded", "ALLOW"),
    "admit: approval needed": (
        policy_says(Action.REQUIRE_APPROVAL),
        ORDINARY,
        "approval_required",
        "REQUIRE_APPROVAL",
    ),
    "admit: stopped meanwhile": (meanwhile(a_stop), ORDINARY, "emergency_stop", "ALLOW"),
    "admit: key revoked meanwhile": (
        meanwhile(set_row("keys", "key_1", state="REVOKED")),
        ORDINARY,
        "key_revoked",
        "ALLOW",
    ),
    "admit: agent paused meanwhile": (
        meanwhile(set_row("agents", "agt_1", state="PAUSED")),
        ORDINARY,
        "agent_paused",
        "ALLOW",
    ),
    "admit: server changed meanwhile": (
        meanwhile(set_row("servers", "srv_1", revision=2)),
        ORDINARY,
        "server_pending",
        "ALLOW",
    ),
    "admit: tool changed meanwhile": (
        meanwhile(set_row("tools", "tol_1", pin="CHANGED")),
        ORDINARY,
        "tool_changed",
        "ALLOW",
    ),
    "admit: budget filled meanwhile": (
        budget_filled_meanwhile,
        ORDINARY,
        "budget_exceeded",
        "ALLOW",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_is_told_traced_and_nothing_is_sent(line: Line, case: str) -> None:
    arrange, body, reason, decided = REFUSALS[case]
    arrange(line)
    answer = await line.handle(a_request(body))
    told = error(answer)
    assert answer.status == 200
    assert (told["code"], told["data"]["reason_code"]) == (REASONS[reason].code, reason)
    assert told["data"]["retryable"] == (REASONS[reason].retryable != "no")
    (record,) = line.world.records(kind="decision")
    assert record["effect"] == "refuse"
    assert (record["reason_code"], record["decision"]) == (reason, decided)
    assert told["data"]["trace_id"] == record["id"] == header(answer, b"x-trace-id")
    ((leaf,),) = line.world.rows("SELECT leaf FROM trace WHERE id = ?", record["id"])
    assert header(answer, b"x-trace-leaf") == leaf.hex()
    assert (line.upstreams.sent, line.world.open_calls()) == ([], [])
    assert line.world.rows("SELECT SUM(held) FROM budget_windows") in ([(None,)], [(0,)])
    line.world.check_log()


# --- a call that passes ---


async def test_a_call_that_passes_is_sent_once_and_its_answer_comes_as_it_was(line: Line) -> None:
    budget = line.world.add_budget(5)
    answer = await line.handle(a_request())
    await line.quiet()
    assert (answer.status, answer.body) == (200, RESULT)
    decision, outcome = line.world.records()
    assert line.upstreams.sent == [decision["id"]]
    assert (decision["effect"], outcome["status"]) == ("forward", "ok")
    assert outcome["call"] == decision["id"] == header(answer, b"x-trace-id")
    assert line.world.window(budget) == (1, 0)


async def test_monitor_mode_lets_a_denied_call_pass(line: Line) -> None:
    line.policy.action, line.policy.enforced = Action.DENY, False
    answer = await line.handle(a_request())
    assert answer.body == RESULT
    assert line.world.records(kind="decision")[0]["decision"] == "DENY"


async def test_a_stream_is_settled_before_its_response_leaves(line: Line) -> None:
    line.upstreams.answer = None
    line.policy.risk = Risk.HIGH  # so that settling waits for the disk
    answer = await line.handle(a_request())
    assert answer.stream is not None
    events = []
    async for chunk in answer.stream:
        events.append(chunk)
        assert len(line.world.records(kind="outcome")) == len(events) - 1
    await answer.stream.aclose()
    assert line.world.records(kind="outcome")[0]["status"] == "ok"


async def test_an_approved_call_passes_exactly_once(line: Line) -> None:
    line.policy.action = Action.REQUIRE_APPROVAL
    asked = error(await line.handle(a_request()))
    line.world.set("approvals", asked["data"]["approval_id"], state="APPROVED")
    assert (await line.handle(a_request())).body == RESULT
    assert error(await line.handle(a_request()))["data"]["reason_code"] == "approval_required"
    assert len(line.upstreams.sent) == 1


@pytest.mark.parametrize(
    "case",
    [
        "stopped",
        "tool changed",
        "policy denies",
        "budget used up",
        "admit: stopped meanwhile",
        "admit: tool changed meanwhile",
        "admit: budget filled meanwhile",
    ],
)
async def test_whoever_has_a_grant_is_asked_all_else_again_and_keeps_it(
    line: Line, case: str
) -> None:
    line.policy.action = Action.REQUIRE_APPROVAL
    asked = error(await line.handle(a_request()))
    line.world.set("approvals", asked["data"]["approval_id"], state="APPROVED")
    arrange, body, reason, _ = REFUSALS[case]
    arrange(line)
    assert error(await line.handle(a_request(body)))["data"]["reason_code"] == reason
    assert line.upstreams.sent == []
    assert line.world.approvals() == [("APPROVED", None)]


# --- between the Permit and the first byte ---


async def not_sent(line: Line, reason: str, request: Any = None) -> None:
    """The call is admitted and does not leave: it is told why, and nothing is held."""
    budget = line.world.add_budget(5)
    answer = await line.handle(request or a_request())
    assert error(answer)["data"]["reason_code"] == reason
    await line.quiet()
    decision, outcome = line.world.records()
    assert decision["effect"] == "forward"
    assert (outcome["fate"], outcome["status"]) == ("not_forwarded", "not_sent")
    assert outcome["error_code"] == reason
    assert line.upstreams.sent == line.world.open_calls() == []
    assert line.world.window(budget) == (0, 0)


async def test_a_caller_who_is_gone_when_the_permit_comes_has_nothing_sent(line: Line) -> None:
    await not_sent(line, "not_forwarded", a_request(gone=lambda: True))


async def test_a_permit_that_is_too_old_is_not_used(line: Line) -> None:
    line.pipeline.admission._permit_seconds = -1.0
    await not_sent(line, "not_forwarded")


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (a_stop, "emergency_stop"),
        (set_row("keys", "key_1", state="REVOKED"), "key_revoked"),
        (set_row("agents", "agt_1", state="SUSPENDED"), "agent_paused"),
        (set_row("servers", "srv_1", status="BLOCKED"), "server_blocked"),
    ],
)
async def test_what_is_withdrawn_before_the_first_byte_keeps_the_call_here(
    line: Line, arrange: Arrange, reason: str
) -> None:
    async def connecting() -> None:
        arrange(line)

    line.upstreams.connecting = connecting
    await not_sent(line, reason)


async def test_a_stop_file_that_another_call_saw_keeps_this_one_here_too(line: Line) -> None:
    told = []

    async def connecting() -> None:
        StopFile(line.world.state.data_dir).write("a drill")
        told.append(error(await line.handle(a_request()))["data"]["reason_code"])

    line.upstreams.connecting = connecting
    told.append(error(await line.handle(a_request()))["data"]["reason_code"])
    await line.quiet()
    assert told == ["emergency_stop", "emergency_stop"]
    effects = [record["effect"] for record in line.world.records(kind="decision")]
    assert (effects, line.upstreams.sent) == (["forward", "refuse"], [])
    assert line.world.records(kind="outcome")[0]["fate"] == "not_forwarded"


async def test_a_change_that_withdraws_nothing_does_not_keep_the_call(line: Line) -> None:
    async def connecting() -> None:
        line.world.add_stop("server", "srv_2")

    line.upstreams.connecting = connecting
    assert (await line.handle(a_request())).body == RESULT


STOPPED_PROCESS = """
import asyncio, os, signal, sys, time
from pathlib import Path
import orjson
from tests.builders import a_request, a_state
from tests.pipeline_world import a_line

async def main(world):
    budget = world.add_budget(5)
    line = a_line(world)
    line.pipeline.admission._permit_seconds = 0.2

    async def connecting():
        assert len(world.open_calls()) == 1  # admitted, and durably so
        os.kill(os.getpid(), signal.SIGSTOP)

    line.upstreams.connecting = connecting
    answer = await line.handle(a_request())
    await line.quiet()
    told = orjson.loads(answer.body)["error"]["data"]["reason_code"]
    fates = [record["fate"] for record in world.records(kind="outcome")]
    print(told, line.upstreams.sent, world.window(budget), fates)

with a_state(Path(sys.argv[1])) as world:
    asyncio.run(main(world))
"""


def test_a_process_that_stood_still_between_commit_and_forward_does_not_send(
    tmp_path: Path,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED_PROCESS, str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(0.3)  # the time that passes is what is tested
    os.kill(child.pid, signal.SIGCONT)
    told, _ = child.communicate(timeout=30)
    assert told == "not_forwarded [] (0, 0) ['not_forwarded']\n"


# --- what the upstream does ---


@pytest.mark.parametrize(
    ("answer", "fate", "used"),
    [
        (Forwarded(Fate.NOT_FORWARDED, reason="upstream_unreachable"), "not_forwarded", 0),
        (Forwarded(Fate.UNKNOWN, reason="upstream_error"), "unknown", 1),
        (Forwarded(Fate.ANSWERED, 401, reason="upstream_auth"), "answered", 1),
        (Forwarded(Fate.ANSWERED, 200, reason="answer_too_large"), "answered", 1),
    ],
)
async def test_an_upstream_that_fails_is_told_of_and_charged_unless_nothing_left(
    line: Line, answer: Forwarded, fate: str, used: int
) -> None:
    budget = line.world.add_budget(5)
    line.upstreams.answer = answer
    assert error(await line.handle(a_request()))["data"]["reason_code"] == answer.reason
    await line.quiet()
    (outcome,) = line.world.records(kind="outcome")
    assert (outcome["fate"], line.world.window(budget)) == (fate, (used, 0))


async def test_a_fault_while_forwarding_is_an_unknown_outcome_and_is_charged(line: Line) -> None:
    async def answering() -> None:
        raise LookupError("bug")

    budget = line.world.add_budget(5)
    line.upstreams.answering = answering
    assert error(await line.handle(a_request()))["data"]["reason_code"] == "upstream_error"
    await line.quiet()
    (outcome,) = line.world.records(kind="outcome")
    assert (outcome["fate"], line.world.window(budget)) == ("unknown", (1, 0))


# --- faults of ours ---


@pytest.mark.parametrize(
    "step",
    [
        "emergency_stop.EmergencyStop.clear",
        "tool_pins.ToolPins.match",
        "budget.BudgetLook.look",
        "approvals.Approvals.find",
    ],
)
async def test_a_fault_in_any_step_refuses(
    line: Line, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("bug")

    monkeypatch.setattr(f"gateway.steps.{step}", fail)
    told = error(await line.handle(a_request()))
    assert (told["code"], told["data"]["reason_code"]) == (-31010, "internal")
    assert b"bug" not in orjson.dumps(told)
    (record,) = line.world.records()
    assert (record["reason_code"], line.upstreams.sent) == ("internal", [])


@pytest.mark.parametrize(
    ("arrange", "body"),
    [
        (lambda _: None, ORDINARY),
        (policy_says(Action.DENY), ORDINARY),
        (lambda _: None, b"{"),
    ],
    ids=["allowed", "denied", "malformed"],
)
async def test_what_cannot_be_traced_is_answered_503_and_not_sent(
    line: Line, arrange: Arrange, body: bytes
) -> None:
    arrange(line)

    def refuse(_: Connection) -> None:
        raise OSError("no space left on device")

    event.listen(line.world.state.writer._engine, "commit", refuse)
    answer = await line.handle(a_request(body))
    event.remove(line.world.state.writer._engine, "commit", refuse)
    assert answer.status == 503
    assert orjson.loads(answer.body)["error"]["data"]["reason_code"] == "trace_unavailable"
    assert (line.upstreams.sent, line.world.records()) == ([], [])
    arrange(line)
    assert (await line.handle(a_request(body))).status in (200, 400)  # and then it works again


# --- how much is traced ---


async def test_refusals_beyond_a_rate_are_counted_by_the_minute(line: Line) -> None:
    line.pipeline.refused_calls._rate = TokenBuckets(per_second=0.001, burst=3)
    line.policy.action = Action.DENY
    answers = [await line.handle(a_request()) for _ in range(8)]
    assert len(line.world.records(kind="decision")) == 3
    await line.pipeline.refused_calls.flush(everything=True)
    counted = line.world.records(kind="refused")
    assert sum(record["count"] for record in counted) == 5
    assert {record["reason_code"] for record in counted} == {"policy_denied"}
    told = {error(answer)["data"]["trace_id"] for answer in answers}
    assert told == {record["id"] for record in line.world.records()}
    await line.pipeline.refused_calls.flush(everything=True)
    assert line.world.records(kind="refused") == counted


async def test_refusals_inside_admission_are_bounded_too(line: Line) -> None:
    line.pipeline.admission._refusals = TokenBuckets(per_second=0.001, burst=3)
    line.policy.action = Action.REQUIRE_APPROVAL
    answers = [await line.handle(a_request()) for _ in range(8)]
    assert {error(answer)["code"] for answer in answers} == {-31004}
    assert len(line.world.records(kind="decision")) == 3
    await line.pipeline.refused_calls.flush(everything=True)
    (counted,) = line.world.records(kind="refused")
    assert (counted["count"], counted["reason_code"]) == (5, "approval_required")
    told = {error(answer)["data"]["trace_id"] for answer in answers}
    assert told == {record["id"] for record in line.world.records() if record["kind"] != "approval"}


async def test_counts_that_cannot_be_written_are_kept(line: Line) -> None:
    line.pipeline.refused_calls._rate = TokenBuckets(per_second=0.001, burst=0)
    line.policy.action = Action.DENY
    await line.handle(a_request())

    def refuse(_: Connection) -> None:
        raise OSError("no space left on device")

    event.listen(line.world.state.writer._engine, "commit", refuse)
    await line.pipeline.refused_calls.flush(everything=True)
    event.remove(line.world.state.writer._engine, "commit", refuse)
    assert line.world.records() == []
    await line.pipeline.refused_calls.flush(everything=True)
    assert line.world.records()[0]["count"] == 1


async def test_a_malformed_message_is_recorded_without_a_word_of_it(line: Line) -> None:
    answer = await line.handle(a_request(b'{"jsonrpc": "2.0", "secret": 1, "secret": 2}'))
    assert answer.status == 400
    (record,) = line.world.records()
    assert (record["kind"], "payload" in record) == ("rejected", False)


async def test_whoever_is_nobody_is_told_so_and_not_traced(line: Line) -> None:
    for token, status in ((b"Bearer nobody", 401), (b"Basic " + SECRET.encode(), 401)):
        answer = await line.handle(a_request(headers=((b"authorization", token),)))
        assert answer.status == status
    assert (await line.handle(a_request(server_id="srv_2"))).status == 404
    assert line.world.records() == []


# --- what is no tool call ---


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (a_request(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'), 200),
        (a_request(b'{"jsonrpc":"2.0","method":"notifications/initialized"}'), 403),
        (a_request(b"", method="GET"), 403),
        (a_request(b"", method="DELETE"), 403),
    ],
    ids=["request", "notification", "GET", "DELETE"],
)
async def test_a_stop_binds_what_is_no_tool_call_too(
    line: Line, request_: Request, status: int
) -> None:
    a_stop(line)
    answer = await line.handle(request_)
    assert answer.status == status
    told = orjson.loads(answer.body)["error"]
    assert (told["code"], told["data"]["reason_code"]) == (-31001, "emergency_stop")
    assert line.upstreams.relayed == []


async def test_what_is_no_tool_call_is_passed_on_and_not_traced(line: Line) -> None:
    answer = await line.handle(a_request(b'{"jsonrpc":"2.0","id":1,"method":"ping"}'))
    assert (answer.body, line.upstreams.relayed) == (RESULT, ["POST"])
    assert (line.upstreams.sent, line.world.records()) == ([], [])


async def test_of_a_very_long_list_what_tells_most_is_stored_first(line: Line) -> None:
    names = [*(f"new{n}" for n in range(300)), TOOL.upper(), TOOL]
    tools = [{"name": name, "inputSchema": {}, "description": "?"} for name in names]
    listed = orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}})

    async def relay(*_: object, **__: object) -> Forwarded:
        return replace(JSON_ANSWER, body=listed)

    line.upstreams.relay = relay  # type: ignore[method-assign]
    stored = select(tables.tools.c.name, tables.tools.c.pin)
    for most in (200, 302):
        await line.handle(a_request(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'))
        kept = dict(line.world.state.registry.read_now(lambda c: c.execute(stored).all()))
        assert {TOOL, TOOL.upper()} < kept.keys()
        assert len(kept.keys() & set(names)) == most
        assert kept[TOOL] != "ACCEPTED"


async def test_a_list_of_what_cannot_be_stored_is_noted_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = [{"name": "a\0b", "inputSchema": {}, "description": "?"}]
    notes = 0

    async def relay(*_: object, **__: object) -> Forwarded:
        listed = {"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}
        return replace(JSON_ANSWER, body=orjson.dumps(listed))

    def observe(*given: Any) -> Findings:
        nonlocal notes
        notes += 1
        return observed(*given)

    observed = pins.observe
    monkeypatch.setattr(pins, "observe", observe)
    monkeypatch.setattr(line.upstreams, "relay", relay)
    asked = a_request(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
    for _ in range(3):
        await line.handle(asked)
        await line.pipeline.relay.close()
    assert notes == 1
    tools.append({"name": TOOL, "inputSchema": {}, "description": "?"})
    await line.handle(asked)
    await line.pipeline.relay.close()
    assert notes == 2
    stored = select(tables.tools.c.name, tables.tools.c.pin)
    kept = dict(line.world.state.registry.read_now(lambda c: c.execute(stored).all()))
    assert kept[TOOL] == "CHANGED"


# --- names that the upstream gave out ---


async def test_a_retry_is_one_that_carries_a_state_of_this_caller(line: Line) -> None:
    caller = line.pipeline.authenticate(a_request())
    seals = Seals(line.world.state.keyring.handles)
    own = seals.seal("state", caller, b"of the server").decode()
    seen: list[Call] = []
    decide = line.policy.decide

    async def watching(pinned: Pinned) -> Decision:
        seen.append(pinned.call)
        return await decide(pinned)

    line.policy.decide = watching  # type: ignore[method-assign]
    for state in (own, "of the server"):
        message = orjson.loads(ORDINARY)
        message["params"]["requestState"] = state
        await line.handle(a_request(orjson.dumps(message)))
    sent = [orjson.loads(call.request.body)["params"]["requestState"] for call in seen]
    assert [call.is_retry for call in seen] == [True, False]
    assert sent[0] == "of the server"
    assert sent[1] not in ("of the server", own)


# --- a caller who hangs up ---


class Suspensions:
    """Cancels a task when anything that it started suspends for the n-th time."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._count = 0
        self.victim: asyncio.Task[Any] | None = None

    def factory(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        return asyncio.Task(self._watch(work), loop=loop, **options)

    async def _watch(self, work: Any) -> Any:
        return await _Watched(work, self._suspended)

    def _suspended(self) -> None:
        self._count += 1
        if self._count == self._at and self.victim is not None:
            self.victim.cancel()


class _Watched:
    def __init__(self, work: Any, suspended: Callable[[], None]) -> None:
        self._work = work
        self._suspended = suspended

    def __await__(self) -> Generator[Any, Any, Any]:
        step, value = self._work.send, None
        while True:
            try:
                waits_for = step(value)
            except StopIteration as done:
                return done.value
            self._suspended()
            try:
                step, value = self._work.send, (yield waits_for)
            except BaseException as thrown:  # noqa: BLE001 - handed on
                step, value = self._work.throw, thrown


async def hang_up_at(line: Line, suspension: int) -> bool:
    """True when the call was over before that many suspensions."""
    loop = asyncio.get_running_loop()
    suspensions = Suspensions(suspension)
    loop.set_task_factory(suspensions.factory)
    try:
        suspensions.victim = asyncio.create_task(line.handle(a_request()))
        await asyncio.wait([suspensions.victim])
        await line.quiet()
    finally:
        loop.set_task_factory(None)
    if suspensions.victim.cancelled():
        return False
    answer = suspensions.victim.result()
    if answer.stream is not None:
        async for _ in answer.stream:
            pass
        await answer.stream.aclose()
        await line.quiet()
    return True


@pytest.mark.parametrize("answer", [JSON_ANSWER, None], ids=["whole", "stream"])
@pytest.mark.parametrize("risk", [Risk.LOW, Risk.HIGH])
async def test_a_caller_may_hang_up_at_any_moment(
    line: Line, answer: Forwarded | None, risk: Risk
) -> None:
    """At each point where anything waits: decided before sent, sent once, settled in the end."""
    budget = line.world.add_budget(1000)
    line.upstreams.answer, line.policy.risk = answer, risk
    suspension, over = 0, False
    while not over:
        suspension += 1
        over = await hang_up_at(line, suspension)
        sent = line.upstreams.sent
        assert len(sent) == len(set(sent))
        decided = line.world.records(kind="decision")
        assert len(decided) == suspension
        forwarded = [r["id"] for r in decided if r["effect"] == "forward"]
        outcomes = {r["call"]: r["fate"] for r in line.world.records(kind="outcome")}
        assert sorted(outcomes) == sorted(forwarded)
        assert set(sent) == {call for call, fate in outcomes.items() if fate != "not_forwarded"}
        assert line.world.open_calls() == []
        assert line.world.window(budget) == (len(sent), 0)
        assert all(stream.ended for stream in line.upstreams.streams)
    assert suspension > 5
    line.world.check_log()


async def test_an_answer_that_no_policy_can_be_asked_about_does_not_pass_and_is_recorded(
    world: World,
) -> None:
    line = a_line(world, inspects=frozenset({("all", "")}))
    answer = await line.handle(a_request(a_body()))
    error = orjson.loads(answer.body)["error"]
    assert (error["code"], error["data"]["reason_code"]) == (-31009, "answer_unreadable")
    assert len(line.upstreams.sent) == 1
    await line.quiet()
    (outcome,) = world.records("outcome")
    assert (outcome["fate"], outcome["error_code"]) == ("answered", "answer_unreadable")


async def test_in_a_stream_an_answer_that_cannot_be_asked_about_becomes_an_error(
    world: World,
) -> None:
    line = a_line(world, inspects=frozenset({("tool", TOOL)}))
    line.upstreams.answer = None
    answer = await line.handle(a_request(a_body()))
    assert answer.stream is not None
    events = [event async for event in answer.stream]
    assert events[0] == b":\n\n"
    assert b'"code":-31009' in events[-1]
    await line.quiet()
    (outcome,) = world.records("outcome")
    assert (outcome["fate"], outcome["error_code"]) == ("answered", "answer_unreadable")


async def test_a_policy_for_another_tool_costs_this_one_nothing(world: World) -> None:
    line = a_line(world, inspects=frozenset({("tool", "another"), ("project", "another")}))
    answer = await line.handle(a_request(a_body()))
    assert "result" in orjson.loads(answer.body)
