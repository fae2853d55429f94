"""Questions that wait together go to OPA together, and no one shares another's fault."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from gateway.http1.client import Client, Response
from gateway.policy.engine import Engine, EngineAnswer, EngineFault
from gateway.policy.lanes import GROUP_BYTES, GROUP_CALLS
from tests.policy.world import MODES, World, bundle_of, running

pytestmark = pytest.mark.anyio

GROUP = (Path(__file__).parents[2] / "rego" / "gateway" / "group" / "group.rego").read_text()


def a_question(mode: str, padding: int = 0) -> bytes:
    return orjson.dumps({"input": {"arguments": {"mode": mode, "padding": "x" * padding}}})


class Counted:
    """The client, and how many questions each of its requests held."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.sizes: list[int] = []
        self.bodies: list[bytes] = []

    async def request(
        self, head: bytes, body: bytes = b"", *, deadline: float, max_body: int
    ) -> Response:
        self.bodies.append(body)
        asked = orjson.loads(body)["input"]
        self.sizes.append(len(asked["calls"]) if "calls" in asked else 1)
        return await self._client.request(head, body, deadline=deadline, max_body=max_body)


@asynccontextmanager
async def narrow(tmp_path: Path) -> AsyncIterator[tuple[Engine, Counted, World]]:
    """An engine with two places, so that more than two questions wait."""
    (tmp_path / "src" / "group").mkdir(parents=True)
    (tmp_path / "src" / "group" / "group.rego").write_text(GROUP)
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        await world.engine.ask(b"gateway/decision", a_question("allow"), key="k")
        counted = Counted(world.client)
        engine = Engine(counted, world.bundles, ready=lambda: True, cores=1)  # type: ignore[arg-type]
        yield engine, counted, world


async def outcomes(*asked: Awaitable[EngineAnswer]) -> list[EngineAnswer | BaseException]:
    return await asyncio.gather(*asked, return_exceptions=True)


async def test_questions_that_wait_go_together_and_each_has_its_own_answer(tmp_path: Path) -> None:
    async with narrow(tmp_path) as (engine, counted, _):
        modes = ["allow", "deny"] * 6
        answers = await outcomes(
            *(
                engine.decide(a_question(m), key=f"k{n % 3}", project="p")
                for n, m in enumerate(modes)
            )
        )
    told = [answer.result["action"] for answer in answers if isinstance(answer, EngineAnswer)]
    assert told == [mode.upper() for mode in modes]
    # All came in one turn of the loop: nobody went ahead alone.
    assert counted.sizes == [12]


async def test_a_group_is_bounded_in_questions_and_the_next_place_takes_the_rest(
    tmp_path: Path,
) -> None:
    async with narrow(tmp_path) as (engine, counted, _):
        many = (engine.decide(a_question("allow"), key="k", project="p") for _ in range(20))
        assert not [r for r in await outcomes(*many) if isinstance(r, BaseException)]
    assert counted.sizes == [GROUP_CALLS, 20 - GROUP_CALLS]


async def test_what_several_questions_begin_with_is_said_once_and_each_is_decided_whole(
    tmp_path: Path,
) -> None:
    begins = [
        b'{"input":{"server":{"slug":"%b","n":[1.10,{}]}' % slug for slug in (b"a", b"b", b"c")
    ]
    asked = [
        (begins[which], begins[which] + b',"arguments":{"mode":"echo","n":%d,"price":1.50}}}' % n)
        for n, which in enumerate((0, 1, 0, 2, 1, 0))
    ]
    async with narrow(tmp_path) as (engine, counted, _):
        answers = await outcomes(
            *(engine.decide(q, key="k", project="p", common=len(begin)) for begin, q in asked)
        )
    assert counted.sizes == [6]
    assert [counted.bodies[0].count(begin[len(b'{"input":') :]) for begin in begins] == [1, 1, 1]
    for answer, (_, question) in zip(answers, asked, strict=True):
        assert isinstance(answer, EngineAnswer)
        seen = answer.result["reasons"][0]
        assert orjson.loads(seen) == orjson.loads(question)["input"]
        # Numbers as they were sent.
        assert "1.10" in seen
        assert "1.50" in seen


async def test_a_fault_in_a_group_is_that_of_one_question_alone(tmp_path: Path) -> None:
    async with narrow(tmp_path) as (engine, counted, _):
        modes = ["allow", "allow", "allow", "conflict", "allow", "no rule has this mode"]
        results = await outcomes(
            *(engine.decide(a_question(mode), key="k", project="p") for mode in modes)
        )
    faults = [mode for mode, r in zip(modes, results, strict=True) if isinstance(r, EngineFault)]
    assert faults == ["conflict", "no rule has this mode"]
    assert "eval_conflict_error" in str(results[3])
    assert max(counted.sizes) > 1


async def test_a_group_is_of_one_project_and_bounded_in_bytes(tmp_path: Path) -> None:
    async with narrow(tmp_path) as (engine, counted, _):
        apart = (
            engine.decide(a_question("allow"), key=str(n), project=str(n % 2)) for n in range(8)
        )
        assert not [r for r in await outcomes(*apart) if isinstance(r, BaseException)]
        assert set(counted.sizes) == {1}
        counted.sizes.clear()
        large = GROUP_BYTES // 3
        together = (
            engine.decide(a_question("allow", large), key="k", project="p") for _ in range(8)
        )
        assert not [r for r in await outcomes(*together) if isinstance(r, BaseException)]
        assert max(counted.sizes) == 2


async def test_a_caller_who_leaves_takes_nobody_along(tmp_path: Path) -> None:
    async with narrow(tmp_path) as (engine, counted, _):
        for leaves in range(6):
            tasks = [
                asyncio.create_task(engine.decide(a_question("allow"), key="k", project="p"))
                for _ in range(6)
            ]
            for _ in range(leaves):
                await asyncio.sleep(0)
            tasks[2].cancel()
            results = await outcomes(*tasks)
            told = [result for result in results if isinstance(result, EngineAnswer)]
            assert len(told) >= 5
        # Every place came back.
        again = [engine.decide(a_question("allow"), key="k", project="p") for _ in range(4)]
        assert all(isinstance(answer, EngineAnswer) for answer in await outcomes(*again))
    assert max(counted.sizes) > 1


async def test_everyone_in_a_group_is_told_when_opa_is_gone(tmp_path: Path) -> None:
    async with narrow(tmp_path) as (engine, _, world):
        await world.opa.stop()
        asked = (engine.decide(a_question("allow"), key="k", project="p") for _ in range(8))
        assert all(isinstance(result, EngineFault) for result in await outcomes(*asked))
