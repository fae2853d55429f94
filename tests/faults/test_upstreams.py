"""A server that hangs, lies, babbles or dies, before a gateway that serves others meanwhile."""

import asyncio
from pathlib import Path

import pytest

from tests.end_to_end.demonstration import need_opa
from tests.faults.line import PASSED, Line, check, prepare
from tests.faults.table import shows
from tests.faults.upstream import an_upstream
from tests.gateway_process import a_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

WHO = "The tool's server"
NOTHING = "nothing to do"
UNKNOWN = "`unknown`: nobody knows whether it ran; it is charged"
ANSWERED = "`answered`, without a result"
SEVERAL = 3
MEGABYTE = 1024**2
TOLD = {
    "hang": "-31006 upstream_error",
    "garbage": "-31006 upstream_error",
    "text": "HTTP 200",
    "huge": "-31009 answer_too_large",
    "chunks": "-31009 answer_too_large",
    "event": "-31009 answer_too_large",
    "half": "-31006 upstream_error",
    "stream": "-31006 upstream_error",
    "drip": "-31006 upstream_error",
    "reset": "-31006 upstream_error",
    "split": PASSED,
    "flood": "-31006 upstream_error",
}
"""What a caller is told, by what the server does; the page's rows are held to it."""


async def _all_at_once(line: Line) -> dict[str, set[str]]:
    """Several calls of each kind among calls that nothing is wrong with."""

    async def one(behaviour: str) -> set[str]:
        calls = [line.call(name) for _ in range(SEVERAL) for name in (behaviour, "ok")]
        said = await asyncio.gather(*calls)
        assert set(said[1::2]) == {PASSED}
        return set(said[::2])

    told = await asyncio.gather(*(one(behaviour) for behaviour in TOLD))
    return dict(zip(TOLD, told, strict=True))


@shows(
    WHO, "hangs, or drips a byte at a time", "−31006 `upstream_error` after 60 s", UNKNOWN, NOTHING
)
@shows(WHO, "answers with what is no HTTP", "−31006 `upstream_error`", UNKNOWN, NOTHING)
@shows(WHO, "answers with what is no JSON", "the answer as it is", "`answered`", NOTHING)
@shows(
    *(WHO, "answers with 10 GB, declared or not, or in one event"),
    *("−31009 `answer_too_large`, after 4 MiB", ANSWERED, NOTHING),
)
@shows(
    *(WHO, "breaks off: half an answer, half a stream, a reset"),
    *("−31006 `upstream_error`", UNKNOWN, NOTHING),
)
@shows(
    *(WHO, "sends two answers to one call"),
    *("the first; the second reaches nobody", "`answered`", "its connection is not used again"),
)
@shows(WHO, "floods with interim answers", "−31006 `upstream_error`", UNKNOWN, NOTHING)
async def test_whatever_a_server_does_others_are_served_and_memory_is_bounded(
    tmp_path: Path,
) -> None:
    need_opa()
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", upstream.url)
        async with (
            a_gateway(tmp_path / "data", "--head-seconds", "8") as gateway,
            Line(gateway) as line,
        ):
            await line.until()
            before = gateway.memory()
            told = await _all_at_once(line)
            assert told == {behaviour: {said} for behaviour, said in TOLD.items()}
            # Nine answers of ten gigabytes were begun.
            assert upstream.sent < 9 * 64 * MEGABYTE
            assert gateway.most_memory() - before < 192 * MEGABYTE
            await line.until()
            await gateway.end()
        fates = check(tmp_path / "data", upstream.seen, budget)
    by_behaviour: dict[str, set[str]] = {}
    for name, fate in fates.items():
        by_behaviour.setdefault(name.partition("-")[0], set()).add(fate)
    answered = {"ok", "text", "huge", "chunks", "split"}
    assert {name: {"answered"} for name in answered} == {n: by_behaviour[n] for n in answered}


@shows(
    *(WHO, "is killed, and comes back"),
    "−31006 `upstream_error` for what it had been sent, −31007 `upstream_unreachable` after that",
    *("`unknown` and `not_forwarded`", "the server is started again"),
)
async def test_a_server_that_is_killed_under_load_is_used_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    need_opa()
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", upstream.url)
        async with a_gateway(tmp_path / "data") as gateway, Line(gateway) as line:
            await line.until()
            hanging = [asyncio.create_task(line.call("hang")) for _ in range(8)]
            while sum(name.startswith("hang") for name in upstream.seen) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await upstream.die()
            assert set(await asyncio.gather(*hanging)) == {"-31006 upstream_error"}
            await line.until("-31007 upstream_unreachable")
            await upstream.start()
            await line.until()
            await gateway.end()
        check(tmp_path / "data", upstream.seen, budget)
