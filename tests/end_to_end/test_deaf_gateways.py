"""Two gateways on one PostgreSQL that hear nothing of each other, as if each notification was lost.

Whatever one has decided must hold at the other's door all the same, because admission asks the
database. What is judged is the order of things, never how long they took.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
import pytest

from tests.end_to_end.demonstration import need_opa
from tests.end_to_end.recording_tool import recording_tool
from tests.end_to_end.two_served import PASSED, Deployment, Served, a_message, last, until
from tests.gateway_process import GatewayProcess
from tests.postgresql import a_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

STOPPED, ASKED, EXCEEDED = -31001, -31004, -31005
EVERYTHING = {"scope": "all", "reason": "a drill"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Deaf:
    made: Deployment
    one: Served
    two: Served
    processes: tuple[GatewayProcess, GatewayProcess]

    @property
    def both(self) -> tuple[Served, Served]:
        return self.one, self.two

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.made.place, autocommit=True) as connection:
            return list(connection.execute(sql.encode()).fetchall())

    async def approval(self, name: str) -> str:
        """Asked for by the call of `delete` that is so named."""
        return str((await self.one.call("delete", name))["error"]["data"]["approval_id"])

    async def known(self, code: int) -> None:
        """Both answer a call so by now."""
        for gateway in self.both:

            async def answers(gateway: Served = gateway) -> bool:
                return await gateway.code("read", "known") == code

            await until(answers)


@pytest.fixture(scope="module")
async def deaf(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deaf]:
    need_opa()
    async with AsyncExitStack() as stack:
        tool = await stack.enter_async_context(recording_tool())
        place = stack.enter_context(a_database())
        made = Deployment(tmp_path_factory.mktemp("deaf"), place, tool)
        await asyncio.to_thread(made.make)
        first = await stack.enter_async_context(made.running("one", 0, "--deaf"))
        second = await stack.enter_async_context(made.running("two", 0, "--deaf"))
        one = await stack.enter_async_context(made.at(first.base_url))
        two = await stack.enter_async_context(made.at(second.base_url))
        await made.register(one)

        async def is_known() -> bool:
            return (await two.post(a_message("ping"))).status_code not in (401, 404)

        await until(is_known)
        yield Deaf(made, one, two, (first, second))


async def test_neither_listens(deaf: Deaf) -> None:
    assert deaf.rows("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'") == []


async def test_no_call_that_begins_after_a_stop_leaves(deaf: Deaf) -> None:
    """Callers never pause. A call has begun after the stop when its number is above the one that
    was drawn once the API had answered.
    """
    numbers = itertools.count()
    codes: dict[int, int] = {}
    enough = asyncio.Event()

    async def keeps_calling(gateway: Served) -> None:
        while not enough.is_set():
            number = next(numbers)
            codes[number] = await gateway.code("read", f"call {number}")

    def left() -> set[int]:
        names = (name.partition("call ")[2] for name in deaf.made.tool.seen)
        return {int(name) for name in names if name}

    async def more(code: int, above: int) -> None:
        async def told() -> bool:
            return sum(number > above for number in codes if codes[number] == code) >= 24

        await until(told)

    calling = [asyncio.create_task(keeps_calling(gateway)) for gateway in deaf.both * 4]
    late: set[int] = set()
    for by, other in (deaf.both, deaf.both[::-1]) * 2:
        await more(PASSED, next(numbers))
        stop = await by.told("POST", "/mcp/emergency-stop", **EVERYTHING)
        stopped = next(numbers)
        await more(STOPPED, stopped)
        # Not those on their way: they may arrive after the stop is lifted.
        late |= {number for number in codes if number > stopped}
        await other.told("POST", f"/mcp/emergency-stop/{stop['id']}/lift", reason="over")
    await deaf.known(PASSED)
    enough.set()
    await asyncio.gather(*calling)
    assert {codes[number] for number in late} == {STOPPED}
    assert not late & left()
    assert {number for number in codes if codes[number] == PASSED} <= left()
    _nothing_forwarded_while_stopped(deaf)


def _nothing_forwarded_while_stopped(deaf: Deaf) -> None:
    """By the database's clock, which tells whose turn came first: no call that was let through
    stands in the trace between a stop and its end. One turn has one time: what shares a stop's
    came before it, and what shares its end's came after that.
    """
    stops = deaf.rows("SELECT stopped_at, lifted_at FROM stops")
    bodies = [orjson.loads(row[0]) for row in deaf.rows("SELECT body FROM trace")]
    times = [body["ts"] for body in bodies if body.get("effect") == "forward"]
    assert stops
    assert times
    within = [(b, time, e) for time in times for b, e in stops if b < time < e]
    assert within == []


@pytest.mark.parametrize("turn", range(4))
async def test_a_grant_a_denial_and_two_spenders_have_one_outcome(deaf: Deaf, turn: int) -> None:
    one, two = deaf.both if turn % 2 else deaf.both[::-1]
    name = f"raced {turn}"
    approval_id = await deaf.approval(name)
    path = f"/approvals/{approval_id}"
    decided, raced = await asyncio.gather(
        asyncio.gather(
            one.api("POST", f"{path}/approve", "Robin", reason="-"),
            two.api("POST", f"{path}/deny", "Sam", reason="-"),
            two.api("POST", f"{path}/approve", "Robin", reason="-"),
        ),
        asyncio.gather(*(gateway.code("delete", name) for gateway in deaf.both * 4)),
    )
    assert sorted(answer.status_code for answer in decided) == [200, 409, 409]
    codes = Counter([*raced, *[await gateway.code("delete", name) for gateway in deaf.both]])
    (state,) = deaf.rows(f"SELECT state FROM approvals WHERE id = '{approval_id}'")
    passed = int(state == ("APPROVED",))
    assert codes == {ASKED: 10 - passed} | ({PASSED: 1} if passed else {})
    assert deaf.made.tool.seen.count(name) == passed


@pytest.mark.parametrize("turn", range(4))
async def test_what_a_stop_meets_on_its_way_passes_before_it_or_never(
    deaf: Deaf, turn: int
) -> None:
    """An approval given, a grant being spent and a task that waits for one, at both doors."""
    one, two = deaf.both if turn % 2 else deaf.both[::-1]
    name, task_name = f"stopped {turn}", f"task {turn}"
    approval_id = await deaf.approval(name)
    arguments = {"name": "delete", "arguments": {"object": task_name}}
    task = await two.modern("tools/call", "delete", **arguments)
    waiting = task["statusMessage"].partition("apr_")[2].split()[0].strip(".")
    if turn > 1:  # a grant that is there when the stop comes
        await one.told("POST", f"/approvals/{approval_id}/approve", "Robin", reason="-")
    stop, *_ = await asyncio.gather(
        two.told("POST", "/mcp/emergency-stop", **EVERYTHING),
        one.api("POST", f"/approvals/{approval_id}/approve", "Robin", reason="-"),
        one.api("POST", f"/approvals/apr_{waiting}/approve", "Robin", reason="-"),
        *(gateway.code("delete", name) for gateway in deaf.both * 3),
    )
    await one.told("POST", f"/mcp/emergency-stop/{stop['id']}/lift", reason="over")
    await deaf.known(PASSED)
    before = deaf.made.tool.seen.count(name)
    assert before <= 1
    after = [await gateway.code("delete", name) for gateway in deaf.both]
    assert after == [ASKED, ASKED]
    for gateway in deaf.both:

        async def ended(gateway: Served = gateway) -> bool:
            found = await gateway.modern("tasks/get", task["taskId"], taskId=task["taskId"])
            return str(found["status"]) in ("completed", "cancelled", "failed")

        await until(ended)
    assert deaf.made.tool.seen.count(name) == before
    assert deaf.made.tool.seen.count(task_name) <= 1
    _nothing_forwarded_while_stopped(deaf)


@pytest.mark.parametrize("to", ["pause", "revoke"])
async def test_an_agent_that_one_stops_is_cut_and_refused_at_the_other(deaf: Deaf, to: str) -> None:
    one, two = deaf.both
    agent = await one.told("POST", "/agents", name=f"to {to}", owner="Olga")
    new: dict[str, Any] = {"role": "project", "name": to, "owner": "Olga", "agent_id": agent["id"]}
    key = await one.told("POST", "/keys", **new)
    path = f"/api/v1/mcp/proxy/{deaf.made.server_id}"
    async with two.client_with(key["key"]) as client:

        async def code(tool: str, name: str) -> tuple[int, int]:
            message = a_message("tools/call", name=tool, arguments={"object": name})
            answer = await client.post(path, json=message)
            if answer.status_code != 200:
                return answer.status_code, 0
            return 200, last(answer).get("error", {}).get("code", PASSED)

        async def known() -> bool:
            return await code("read", "known") == (200, PASSED)

        await until(known)
        streaming = asyncio.create_task(code("held", f"until {to}"))
        assert await deaf.made.tool.begun.get() == f"until {to}"
        await one.told("POST", f"/agents/{agent['id']}/{to}")
        # Admission asks the database: none passes, whatever this one's memory still says.
        assert await code("read", f"after {to}") in {(200, STOPPED), (401, 0)}
        assert await streaming == (200, STOPPED)
    assert f"after {to}" not in deaf.made.tool.seen


async def budget_of(deaf: Deaf, tool: str, limit: int) -> str:
    """Of calls of this tool in a month, known to both."""
    path = f"/mcp/servers/{deaf.made.server_id}/tools"
    tools = (await deaf.one.told("GET", path))["items"]
    (target,) = (found["id"] for found in tools if found["name"] == tool)
    new: dict[str, Any] = {"scope": "tool", "target_id": target, "dimension": "requests"}
    new |= {"window": "month", "limit": limit, "on_exceed": "BLOCK"}
    made = await deaf.one.told("POST", "/budgets", **new)
    await both_know(deaf, str(made["id"]), limit)
    return str(made["id"])


async def both_know(deaf: Deaf, budget_id: str, limit: int) -> None:
    """A gateway refuses by a limit that it has read, which the other's word would tell sooner."""
    moved = (await deaf.one.told("GET", f"/budgets/{budget_id}"))["limit"]
    assert moved == limit
    # Its memory follows a change made after it.
    new = await deaf.one.told("POST", "/keys", role="project", name="marker", owner="Olga")
    path = f"/api/v1/mcp/proxy/{deaf.made.server_id}"
    async with deaf.two.client_with(new["key"]) as marker:

        async def known() -> bool:
            return (await marker.post(path, json=a_message("ping"))).status_code not in (401, 404)

        await until(known)


async def test_the_last_unit_of_a_budget_is_used_once(deaf: Deaf) -> None:
    budget_id = await budget_of(deaf, "count", 0)
    for limit in range(1, 5):
        await deaf.one.told("PATCH", f"/budgets/{budget_id}", limit=limit)
        await both_know(deaf, budget_id, limit)
        name = f"unit {limit}"
        codes = Counter(
            await asyncio.gather(*(gateway.code("count", name) for gateway in deaf.both * 5))
        )
        assert codes == {PASSED: 1, EXCEEDED: 9}
        assert deaf.made.tool.seen.count(name) == 1
    assert (await deaf.one.api("DELETE", f"/budgets/{budget_id}")).is_success


async def test_one_that_is_killed_leaves_its_budgets_charged_and_never_overrun(deaf: Deaf) -> None:
    """The last one here, because it kills."""
    limit = 60
    budget_id = await budget_of(deaf, "change", limit)
    seen = deaf.made.tool.seen
    codes: Counter[int] = Counter()

    async def calls_until_over(gateway: Served) -> None:
        code = PASSED
        while code != EXCEEDED:
            code = await gateway.code("change", "charged")
            codes[code] += 1

    calling = [asyncio.create_task(calls_until_over(gateway)) for gateway in deaf.both * 4]

    async def half() -> bool:
        return seen.count("charged") >= limit // 2

    await until(half)
    deaf.processes[0].process.kill()
    await asyncio.gather(*calling, return_exceptions=True)

    async def settled() -> bool:
        row = await deaf.two.told("GET", f"/budgets/{budget_id}")
        return bool(row["held"] == 0)

    await until(settled)
    assert (await deaf.two.told("GET", f"/budgets/{budget_id}"))["used"] == limit
    assert codes[PASSED] <= seen.count("charged") <= limit
