"""What the engine believes of OPA, and what it does when OPA fails it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import orjson
import pytest

from gateway.http1.client import Client, UnixAddress
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import Bundle
from gateway.policy.engine import Engine, EngineFault
from gateway.policy.lanes import LARGE_BYTES
from tests.policy.world import MODES, World, bundle_of, running

pytestmark = pytest.mark.anyio

OFFERED = Bundle("sha256:known", "sha256:digest", b"")


def _question(mode: str) -> bytes:
    return orjson.dumps({"input": {"arguments": {"mode": mode}}})


async def _ask(world: World, mode: str) -> None:
    await world.engine.ask(b"gateway/decision", _question(mode), key="k")


async def test_what_opa_cannot_decide_is_a_fault_that_says_why(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "src", MODES)
    async with running(tmp_path, bundle) as world:
        await _ask(world, "allow")
        with pytest.raises(EngineFault, match="undefined"):
            await _ask(world, "no rule has this mode")
        with pytest.raises(EngineFault, match="eval_conflict_error"):
            await _ask(world, "conflict")
        with pytest.raises(EngineFault, match="eval_builtin_error"):
            await _ask(world, "builtin error")
        with pytest.raises(EngineFault, match="400"):
            await world.engine.ask(b"gateway/decision", b'{"input":', key="k")


async def test_slow_or_hung_opa_is_a_fault_at_the_deadline(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        await _ask(world, "allow")
        with pytest.raises(EngineFault, match="did not answer"):
            await _ask(world, "slow")
        await _answers_again(world)
        os.kill(world.pid, signal.SIGSTOP)
        await asyncio.to_thread(
            os.waitid, os.P_PID, world.pid, os.WSTOPPED | os.WNOWAIT
        )  # a signal takes its time
        started = monotonic()
        with pytest.raises(EngineFault, match="did not answer"):
            await _ask(world, "allow")
        assert monotonic() - started > 0.2
        os.kill(world.pid, signal.SIGCONT)
        await _answers_again(world)


async def _answers_again(world: World) -> None:
    """A slow evaluation is cancelled with its connection, but not before OPA notices."""
    for _ in range(40):
        try:
            return await _ask(world, "allow")
        except EngineFault:
            continue
    raise AssertionError("OPA did not recover")


async def test_an_opa_that_went_away_is_a_fault_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        await _ask(world, "allow")
        await world.opa.stop()
        with pytest.raises(EngineFault, match="not running"):
            await _ask(world, "allow")
        blind = Engine(world.client, world.bundles, ready=lambda: True)
        with pytest.raises(EngineFault, match="did not answer"):
            await blind.ask(b"gateway/decision", _question("allow"), key="k")


async def test_opa_may_take_a_second_from_an_offer_until_it_answers_from_it(
    tmp_path: Path,
) -> None:
    async with _fake_opa(tmp_path, _answer(OFFERED.revision), seconds=0.4) as engine:
        await engine.ask(b"gateway/decision", b"{}", key="k")
        with pytest.raises(EngineFault, match="did not answer"):
            await engine.ask(b"gateway/decision", b"{}", key="k")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"not json", "no JSON"),
        (b"[]", "which bundle"),
        (b"{}", "which bundle"),
        (b'{"result":{"action":"ALLOW"}}', "which bundle"),
        (b'{"result":{},"provenance":{"bundles":{"gateway":{"revision":"old"}}}}', "unknown"),
        (b'{"result":{},"provenance":{"bundles":{"gateway":{"revision":["x"]}}}}', "which bundle"),
        (b'{"provenance":{"bundles":{"gateway":{"revision":"sha256:known"}}}}', "undefined"),
    ],
)
async def test_an_answer_that_is_not_whole_is_a_fault(
    tmp_path: Path, body: bytes, complaint: str
) -> None:
    async with _fake_opa(tmp_path, _http(body)) as engine:
        with pytest.raises(EngineFault, match=complaint):
            await engine.ask(b"gateway/decision", b"{}", key="k")


@pytest.mark.parametrize(
    "raw", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
)
async def test_garbage_instead_of_http_is_a_fault(tmp_path: Path, raw: bytes) -> None:
    async with _fake_opa(tmp_path, raw) as engine:
        with pytest.raises(EngineFault, match="did not answer"):
            await engine.ask(b"gateway/decision", b"{}", key="k")


async def test_a_large_question_keeps_its_lane_until_opa_is_done_with_it(tmp_path: Path) -> None:
    large = b'"' + b"x" * LARGE_BYTES + b'"'
    async with _fake_opa(tmp_path, _answer(OFFERED.revision), seconds=0.5) as engine:
        with pytest.raises(EngineFault, match="did not answer"):
            await engine.ask(b"gateway/decision", large, key="k", seconds=0.2)
        with pytest.raises(EngineFault, match="no place"):
            await engine.ask(b"gateway/decision", large, key="other", seconds=0.2)
        await engine.ask(b"gateway/decision", b"{}", key="k", seconds=2)
        await engine.ask(b"gateway/decision", large, key="other", seconds=2)


async def test_a_question_is_asked_once(tmp_path: Path) -> None:
    asked: list[bytes] = []
    async with _fake_opa(tmp_path, _http(b"{}", b"500 Oops"), asked=asked) as engine:
        with pytest.raises(EngineFault, match="answered 500"):
            await engine.ask(b"gateway/decision", b'{"input":1}', key="k")
    (request,) = asked
    assert request.startswith(
        b"POST /v1/data/gateway/decision?strict-builtin-errors=true&provenance=true HTTP/1.1\r\n"
    )
    assert request.endswith(b'\r\n\r\n{"input":1}')


def _http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


def _answer(revision: str) -> bytes:
    provenance = {"bundles": {"gateway": {"revision": revision}}}
    return _http(orjson.dumps({"result": {}, "provenance": provenance}))


@asynccontextmanager
async def _fake_opa(
    folder: Path, raw: bytes, *, seconds: float = 0, asked: list[bytes] | None = None
) -> AsyncIterator[Engine]:
    """A socket that answers every request with the same bytes, and then closes."""

    answering: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(1 << 16)
        if asked is not None:
            asked.append(request)
        await asyncio.sleep(seconds)
        writer.write(raw)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.create_task(answer(reader, writer)))

    path = folder / "fake.sock"
    server = await asyncio.start_unix_server(connected, path)
    bundles = BundleServer("token")
    bundles.offer(OFFERED)
    client = Client(UnixAddress(str(path)))
    try:
        yield Engine(client, bundles, ready=lambda: True)
    finally:
        client.close()
        server.close()
        await asyncio.gather(*answering)
        await server.wait_closed()
