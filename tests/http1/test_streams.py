"""Large bodies and streamed answers, against servers on real sockets, on both event loops."""

import asyncio
from time import monotonic
from typing import cast

import pytest

from gateway.http1.client import Http1Error, Interrupted, TooLarge
from tests.raw_server import OK, STREAM, Peer, always_ok, ask, head, raw_server, saying, to, turns

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


# Large bodies


async def test_a_large_body_arrives_whole_at_a_slow_reader() -> None:
    body = bytes(range(256)) * 20_000
    async with raw_server(always_ok) as server:
        client = to(server)
        for _ in range(2):
            assert (await ask(client, body)).body == b"ok"
        assert server.connections == 1
        assert [request.partition(b"\r\n\r\n")[2] == body for request in server.requests] == [
            True,
            True,
        ]
        client.close()


async def test_a_final_answer_before_the_whole_body_was_read_is_returned() -> None:
    async def hasty(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.reader.readexactly(1)
        cast(asyncio.Transport, peer.writer.transport).pause_reading()
        await asyncio.Event().wait()

    async with raw_server(hasty) as server:
        client = to(server)
        response = await ask(client, b"x" * 30_000_000)
        assert response.status == 413
        await ask(client, b"x" * 30_000_000)
        assert server.connections == 2
        client.close()


# Streams


async def test_pieces_of_a_stream_come_as_they_are_sent_and_the_connection_stays() -> None:
    go = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for piece in (b"one", b"two"):
            await go.wait()
            go.clear()
            await peer.send(b"3\r\n" + piece + b"\r\n")
        await go.wait()
        await peer.send(b"0\r\n\r\n")
        await always_ok(peer)

    async with raw_server(handle) as server:
        client = to(server, max_connections=1)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
        assert (exchange.status, exchange.content_type) == (200, "text/event-stream")
        pieces = []
        go.set()
        async for piece in exchange:
            pieces.append(piece)
            go.set()
        assert pieces == [b"one", b"two"]
        assert (await ask(client)).body == b"ok"
        assert server.connections == 1
        client.close()


async def test_a_stream_outlives_the_deadline_of_its_head_and_starves_nobody() -> None:
    go = asyncio.Event()

    async def handle(peer: Peer) -> None:
        if peer.server.connections > 1:
            await always_ok(peer)
        await peer.request()
        await peer.send(STREAM + b"3\r\none\r\n")
        await go.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")
        await peer.gone()

    async with raw_server(handle) as server:
        client = to(server, max_connections=1)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 0.2)
        assert await anext(exchange) == b"one"
        rest = asyncio.ensure_future(anext(exchange))
        assert (await ask(client)).body == b"ok"
        await asyncio.wait([rest], timeout=0.3)
        go.set()
        assert await rest == b"two"
        with pytest.raises(StopAsyncIteration):
            await anext(exchange)
        client.close()


async def test_a_silent_stream_ends_at_its_idle_limit_if_it_has_one() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await peer.gone()

    async with raw_server(silent) as server:
        client = to(server)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5, idle_seconds=0.05)
        with pytest.raises(Interrupted, match="in time"):
            await anext(exchange)
        client.close()


async def test_a_broken_stream_gives_what_came_and_then_the_fault() -> None:
    async with raw_server(saying(STREAM + b"3\r\none\r\nzz\r\n")) as server:
        client = to(server)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
        assert await anext(exchange) == b"one"
        with pytest.raises(Interrupted, match="malformed"):
            await anext(exchange)
        client.close()


@pytest.mark.parametrize("begun", [False, True])
async def test_closing_an_exchange_is_seen_upstream(begun: bool) -> None:
    gone = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"3\r\none\r\n")
        await peer.gone()
        gone.set()

    async with raw_server(handle) as server:
        client = to(server, max_connections=1)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
        if begun:
            await anext(exchange)
        exchange.close()
        await asyncio.wait_for(gone.wait(), 5)
        if not begun:
            assert await anext(exchange) == b"one"
        with pytest.raises(Interrupted, match="given up"):
            await anext(exchange)
        client.close()


async def test_a_reader_that_does_not_read_stops_the_server() -> None:
    blocked = asyncio.Event()
    size = 32 << 20

    async def handle(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            peer.writer.write(b"x" * size)
            try:
                await asyncio.wait_for(peer.writer.drain(), 0.3)
            except TimeoutError:
                blocked.set()

    async with raw_server(handle) as server:
        client = to(server)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
        await asyncio.wait_for(blocked.wait(), 5)
        assert sum([len(piece) async for piece in exchange]) == size
        other = await client.open(head(), b"x", deadline=monotonic() + 5)
        assert len(await other.read(size)) == size
        client.close()


async def test_reading_whole_is_bounded_in_size_and_time() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"3\r\none\r\n")
        await peer.gone()

    async with raw_server(handle) as server:
        client = to(server)
        faults: list[type[Http1Error]] = []
        for max_body, seconds in ((2, 5.0), (3, 0.1)):
            exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
            with pytest.raises(Http1Error) as fault:
                await exchange.read(max_body, monotonic() + seconds)
            faults.append(type(fault.value))
        assert faults == [TooLarge, Interrupted]
        client.close()


async def test_a_head_that_does_not_come_is_interrupted_at_the_deadline() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(silent) as server:
        client = to(server)
        with pytest.raises(Interrupted, match="in time"):
            await client.open(head(), b"x", deadline=monotonic() + 0.05)
        client.close()


async def test_the_answer_to_head_is_its_head() -> None:
    async with raw_server(saying(OK[:-2])) as server:
        client = to(server)
        response = await client.request(
            head(None, "HEAD"), deadline=monotonic() + 5, max_body=1 << 20
        )
        assert (response.status, response.body) == (200, b"")
        client.close()


async def test_a_slow_reader_of_a_stream_is_not_late() -> None:
    go = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + b"3\r\none\r\n")
        await go.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with raw_server(handle) as server:
        client = to(server)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 0.1)
        assert await anext(exchange) == b"one"
        await asyncio.sleep(0.15)
        go.set()
        assert await anext(exchange) == b"two"
        client.close()


async def test_a_turn_given_to_one_who_is_cancelled_at_once_is_passed_on() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK if peer.server.connections > 1 else STREAM)
        await peer.gone()

    async with raw_server(handle) as server:
        client = to(server, max_connections=1)
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
        waiting = asyncio.ensure_future(ask(client))
        await turns(2)
        exchange.close()
        waiting.cancel()
        assert (await ask(client, seconds=2)).body == b"ok"
        client.close()
