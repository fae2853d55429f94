"""Records reach each sink at least once, in order, as they were hashed; outages lose none."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.database_place import Place
from gateway.ids import new_id
from gateway.settings import Settings, SettingsFault
from gateway.sinks import follow
from gateway.sinks.follow import Follower, Places
from gateway.sinks.targets import Line, SinkFault, SinkMisnamed, framed, target
from gateway.store.database import reading_engine
from gateway.trace.merkle import leaf_hash
from gateway.trace.record import Draft
from gateway.values import ProjectId
from tests.builders import World, a_state
from tests.serving import serving
from tests.trace.test_slots import machines_in

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"),)


def append(world: World, count: int = 1) -> None:
    drafts = [Draft("event", new_id("evt"), ProjectId("prj_1")) for _ in range(count)]
    world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))


def bodies(world: World) -> list[bytes]:
    return [row[0] for row in world.rows("SELECT body FROM trace ORDER BY idx")]


def leaves(world: World) -> list[bytes]:
    return [row[0] for row in world.rows("SELECT leaf FROM trace ORDER BY idx")]


@dataclass
class Bin:
    """A target that fails when it is told to."""

    down: bool = False
    lines: list[Line] = field(default_factory=list)

    async def send(self, lines: Sequence[Line]) -> None:
        if self.down:
            raise SinkFault("down")
        self.lines += lines

    def close(self) -> None: ...


def stored(world: World) -> Places:
    return world.state.registry.read_now(lambda c: follow.stored(c, "bin"))


@asynccontextmanager
async def following(world: World, to: Bin, name: str = "bin") -> AsyncIterator[None]:
    state = world.state
    follower = Follower(name, to, state.writer, state.reader, state.clock.now)
    task = asyncio.create_task(follower.run())
    yield
    task.cancel()
    await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is another's doing
            await asyncio.sleep(0.01)


async def test_every_record_comes_once_and_in_order(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 1200)
        to = Bin()
        async with following(world, to):
            await until(lambda: len(to.lines) >= world.state.log.size)
            append(world, 5)
            await until(lambda: len(to.lines) >= world.state.log.size)
        assert [one.body for one in to.lines] == bodies(world)
        assert [leaf_hash(one.body) for one in to.lines] == leaves(world)


async def test_after_a_stop_it_goes_on_where_it_was(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 10)
        first, second = Bin(), Bin()
        async with following(world, first):
            await until(lambda: stored(world) == {0: world.state.log.size})
        append(world, 3)
        async with following(world, second):
            await until(lambda: len(first.lines) + len(second.lines) >= world.state.log.size)
        assert [one.body for one in first.lines + second.lines] == bodies(world)


async def test_what_was_sent_and_not_noted_comes_again(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 10)
        to = Bin()
        state = world.state
        follower = Follower("bin", to, state.writer, state.reader, state.clock.now)
        follower._saved_at = float("inf")  # the process dies before it stores the index
        await follower.step({})
        assert len(to.lines) == 10
        assert stored(world) == {}


async def test_every_log_is_followed_while_all_of_them_grow(tmp_path: Path, place: Place) -> None:
    with machines_in(tmp_path / "data", place) as machines:
        one, two = machines.start("a"), machines.start("b")
        reader = reading_engine(place)
        to = Bin()
        for _ in range(3):
            one.append(2)
            two.append(3)
            follower = Follower("bin", to, one.writer, reader, lambda: "2026-01-01T00:00:00Z")
            task = asyncio.create_task(follower.run())
            await until(lambda: len(to.lines) >= one.log.size + two.log.size)
            task.cancel()
            await asyncio.wait([task])
        with reader.connect() as connection:
            of = {log: follow.lines_from(connection, log, 0) for log in (0, 1)}
        assert [len(lines) for lines in of.values()] == [6, 10]
        for lines in of.values():
            assert [line.body for line in to.lines if line in lines] == [x.body for x in lines]
        assert len(to.lines) == 16
        with reader.connect() as connection:
            assert follow.stored(connection, "bin") == {0: 6, 1: 10}
        reader.dispose()


async def test_one_gateway_at_a_time_sends(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 10)
        first, second = Bin(), Bin()
        async with following(world, first):
            await until(lambda: len(first.lines) >= world.state.log.size)
            async with following(world, second):
                append(world, 5)
                await until(lambda: len(first.lines) >= world.state.log.size)
                assert second.lines == []
        append(world, 5)
        async with following(world, second):
            await until(lambda: len(second.lines) >= 5)
        assert [one.body for one in first.lines + second.lines] == bodies(world)


async def test_an_outage_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MOST_BACKOFF", 0.05)
    with a_state(tmp_path) as world:
        to = Bin(down=True)
        async with following(world, to):
            append(world, 30)
            await asyncio.sleep(0)
            to.down = False
            await until(lambda: len(to.lines) >= world.state.log.size)
        assert [one.body for one in to.lines] == bodies(world)


async def test_a_file_gets_the_bytes_that_were_hashed(tmp_path: Path) -> None:
    with a_state(tmp_path / "data") as world:
        append(world, 3)
        path = tmp_path / "records.ndjson"
        lines = world.state.registry.read_now(lambda c: follow.lines_from(c, 0, 0))
        await target(f"file://{path}", (), None).send(lines)
        assert path.read_bytes().splitlines() == bodies(world)


async def test_a_collector_that_says_no_gets_them_again() -> None:
    got: list[tuple[str, bytes]] = []

    async def collect(request: Request) -> Response:
        got.append((request.headers["authorization"], await request.body()))
        return Response(status_code=503 if len(got) == 1 else 204)

    async with serving(Starlette(routes=[Route("/in", collect, methods=["POST"])])) as port:
        to = target(f"http://127.0.0.1:{port}/in", LOOPBACK, "secret")
        lines = [Line(0, "2026-01-01T00:00:00.000000Z", "event", False, b'{"idx":0}')]
        with pytest.raises(SinkFault, match="503"):
            await to.send(lines)
        await to.send(lines)
        to.close()
    assert got == [("Bearer secret", b'{"idx":0}\n')] * 2


async def test_a_syslog_server_gets_framed_messages() -> None:
    received = bytearray()
    done = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(received) < expected:
            received.extend(await reader.read(65536))
        done.set()
        writer.close()

    lines = [
        Line(n, "2026-01-01T00:00:00.000000Z", "decision", n == 1, b'{"idx":%d}' % n)
        for n in range(2)
    ]
    expected = sum(len(framed(one)) for one in lines)
    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        to = target(f"syslog+tcp://127.0.0.1:{port}", LOOPBACK, None)
        await to.send(lines)
        async with asyncio.timeout(60):
            await done.wait()
        to.close()
    first, second = split(bytes(received))
    # RFC 5424: facility 13 (log audit), severity 6 informational, 4 warning.
    assert re.fullmatch(
        rb"<110>1 2026-01-01T00:00:00\.000000Z \S+ policy-gateway \d+ decision - \{\"idx\":0\}",
        first,
    )
    assert second.startswith(b"<108>1 ")
    assert json.loads(second.partition(b" - ")[2]) == {"idx": 1}


def split(framed_text: bytes) -> list[bytes]:
    found = []
    while framed_text:
        length, _, rest = framed_text.partition(b" ")
        found.append(rest[: int(length)])
        framed_text = rest[int(length) :]
    return found


async def test_a_server_that_is_away_is_a_fault_and_nothing_worse() -> None:
    line = Line(0, "2026-01-01T00:00:00.000000Z", "event", False, b"{}")
    for text in ("syslog+tcp://127.0.0.1:9", "http://127.0.0.1:9/in", "file:///nowhere/at/all"):
        with pytest.raises(SinkFault):
            await target(text, LOOPBACK, None).send([line])


@pytest.mark.parametrize(
    "text", ["stdin", "ftp://host/x", "syslog+udp://host", "http://logs.example.com", "file://x/y"]
)
async def test_what_is_no_sink_is_told_before_anything_starts(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SinkMisnamed):
        target(text, (), None)
    monkeypatch.setenv("GATEWAY_SINKS", f"stdout,{text}")
    with pytest.raises(SettingsFault, match="GATEWAY_SINKS"):
        follow.check(Settings.read())
