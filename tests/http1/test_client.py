"""The client and its pool against servers on real sockets, on both event loops."""

import asyncio
import socket
from pathlib import Path
from time import monotonic

import pytest

from gateway.http1.client import (
    Client,
    Interrupted,
    NotSent,
    TcpAddress,
    TooLarge,
    UnixAddress,
)
from tests.raw_server import OK, STREAM, Peer, always_ok, ask, raw_server, saying, to, turns

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


# Keep-alive


async def test_one_connection_serves_requests_one_after_another(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with raw_server(always_ok, path=path) as server:
        client = Client(UnixAddress(path))
        for number in range(5):
            response = await ask(client, b"%d" % number)
            assert (response.status, response.body) == (200, b"ok")
            assert response.headers == ((b"content-length", b"2"),)
        assert server.connections == 1
        assert [request[-1:] for request in server.requests] == [b"0", b"1", b"2", b"3", b"4"]
        client.close()


async def test_an_answer_that_comes_byte_by_byte_is_whole() -> None:
    async def slowly(peer: Peer) -> None:
        await peer.request()
        for at in range(len(OK)):
            await peer.send(OK[at : at + 1])
            await turns(2)
        await peer.gone()

    async with raw_server(slowly) as server:
        client = to(server)
        assert (await ask(client)).body == b"ok"
        client.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        OK + b"\r\n",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
    ],
)
async def test_a_connection_whose_next_answer_could_be_another_is_not_used_again(
    answer: bytes,
) -> None:
    async with raw_server(saying(answer, OK)) as server:
        client = to(server)
        assert (await ask(client)).body == b"ok"
        assert (await ask(client)).body == b"ok"
        assert server.connections == 2
        client.close()


async def test_a_connection_closed_while_idle_is_replaced_before_anything_is_written() -> None:
    peers: list[Peer] = []

    async def handle(peer: Peer) -> None:
        peers.append(peer)
        await always_ok(peer)

    async with raw_server(handle) as server:
        client = to(server)
        await ask(client)
        # The loop gets no turn in which to notice before the next request is written.
        peers[0].at_once(lambda sock: sock.shutdown(socket.SHUT_WR))
        assert (await ask(client)).body == b"ok"
        assert (server.connections, len(server.requests)) == (2, 2)
        client.close()


async def test_bytes_that_came_while_idle_are_no_answer() -> None:
    peers: list[Peer] = []
    ended = asyncio.Event()

    async def handle(peer: Peer) -> None:
        peers.append(peer)
        try:
            await always_ok(peer)
        finally:
            ended.set()

    async with raw_server(handle) as server:
        client = to(server)
        await ask(client)
        evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        peers[0].at_once(lambda sock: sock.send(evil))
        assert (await ask(client)).body == b"ok"
        peers[1].at_once(lambda sock: sock.send(b"\r\n"))
        ended.clear()
        assert (await ask(client)).body == b"ok"
        peers[2].at_once(lambda sock: sock.send(b"x"))
        await asyncio.wait_for(ended.wait(), 5)
        assert (await ask(client)).body == b"ok"
        assert server.connections == 4
        client.close()


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    gone = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.gone()
        gone.set()

    async with raw_server(handle) as server:
        client = to(server, idle_seconds=0.02)
        await ask(client)
        await asyncio.wait_for(gone.wait(), 5)
        client.close()


async def test_a_connection_idle_too_long_is_not_used_even_before_its_timer_rings() -> None:
    async with raw_server(always_ok) as server:
        client = to(server, idle_seconds=0)
        await ask(client)
        await ask(client)
        assert server.connections == 2
        client.close()


# What is sent is sent once


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        STREAM + b"5\r\nok",
        STREAM + b"2\r\nok\r\n",
        b"\x15\x03\x03",
    ],
)
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_broken_answer_is_interrupted_and_the_request_is_not_sent_again(
    answer: bytes, how: str
) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        if how == "rst":
            peer.reset()

    async with raw_server(handle) as server:
        client = to(server)
        with pytest.raises(Interrupted) as fault:
            await ask(client)
        assert fault.value.why
        await turns(3)
        assert (server.connections, len(server.requests)) == (1, 1)
        client.close()


async def test_a_body_that_ends_with_the_connection_needs_a_clean_end() -> None:
    ends = iter(["fin", "rst"])

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nok")
        if next(ends) == "rst":
            peer.reset()

    async with raw_server(handle) as server:
        client = to(server)
        assert (await ask(client)).body == b"ok"
        with pytest.raises(Interrupted):
            await ask(client)
        client.close()


async def test_a_stalled_server_is_interrupted_at_the_deadline_and_sees_the_close() -> None:
    gone = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK[:-1])
        await peer.gone()
        gone.set()

    async with raw_server(handle) as server:
        client = to(server)
        with pytest.raises(Interrupted, match="in time"):
            await ask(client, seconds=0.05)
        await asyncio.wait_for(gone.wait(), 5)
        client.close()


async def test_each_request_has_its_own_deadline_on_a_shared_connection() -> None:
    async with raw_server(saying(OK, OK, b"")) as server:
        client = to(server)
        await ask(client, seconds=60)
        await ask(client, seconds=0.5)
        begun = monotonic()
        with pytest.raises(Interrupted):
            await ask(client, seconds=0.05)
        assert monotonic() - begun < 0.4
        client.close()


async def test_too_large_an_answer_is_cut_off() -> None:
    async with raw_server(saying(OK)) as server:
        client = to(server)
        with pytest.raises(TooLarge):
            await ask(client, max_body=1)
        assert (await ask(client, max_body=2)).body == b"ok"
        client.close()


# Nothing was sent


async def test_nobody_listening_is_not_sent(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused = Client(TcpAddress("127.0.0.1", taken.getsockname()[1]))
        with pytest.raises(NotSent, match="cannot connect"):
            await ask(refused)
    missing = Client(UnixAddress(str(tmp_path / "none")), max_connections=1)
    for _ in range(3):
        with pytest.raises(NotSent):
            await ask(missing)


async def test_a_deadline_that_passed_before_writing_is_not_sent() -> None:
    async with raw_server(always_ok) as server:
        client = to(server)
        await ask(client)
        with pytest.raises(NotSent, match="deadline"):
            await ask(client, seconds=-1)
        await ask(client)
        assert (server.connections, len(server.requests)) == (1, 2)
        client.close()


async def test_whatever_before_write_raises_keeps_the_request_and_the_connection() -> None:
    def stop() -> None:
        raise PermissionError("the stop epoch moved")

    async with raw_server(always_ok) as server:
        client = to(server, max_connections=1)
        for _ in range(2):
            with pytest.raises(PermissionError):
                await ask(client, b"never", before_write=stop)
        assert (await ask(client)).body == b"ok"
        assert server.connections == 1
        assert [request[-1:] for request in server.requests] == [b"x"]
        client.close()


async def test_before_write_is_asked_once_and_only_when_a_connection_is_there() -> None:
    asked: list[str] = []
    go = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(OK)
        await always_ok(peer)

    async with raw_server(handle) as server:
        client = to(server, max_connections=1)
        first = asyncio.ensure_future(ask(client, before_write=lambda: asked.append("first")))
        second = asyncio.ensure_future(ask(client, before_write=lambda: asked.append("second")))
        await server.arrived.wait()
        assert asked == ["first"]
        go.set()
        await asyncio.gather(first, second)
        assert asked == ["first", "second"]
        client.close()


async def test_a_host_that_is_a_name_needs_a_resolver() -> None:
    with pytest.raises(ValueError, match="localhost"):
        Client(TcpAddress("localhost", 80))


async def test_every_resolved_address_is_tried_and_the_next_connection_asks_again() -> None:
    asked: list[tuple[str, int]] = []

    async with raw_server(saying(OK)) as server:

        async def resolve(host: str, port: int) -> list[tuple[int, str, int]]:
            asked.append((host, port))
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                unused = closed.getsockname()[1]
            return [(socket.AF_INET, "127.0.0.1", at) for at in (unused, server.port)]

        client = Client(TcpAddress("upstream.example", 80), resolve=resolve)
        assert (await ask(client)).body == b"ok"
        assert (await ask(client)).body == b"ok"
        assert asked == [("upstream.example", 80)] * 2
        client.close()


# The line


async def test_who_waits_for_a_connection_is_served_in_order() -> None:
    async with raw_server(always_ok) as server:
        client = to(server, max_connections=1)
        bodies = [b"%d" % number for number in range(9)]
        responses = await asyncio.gather(*(ask(client, body) for body in bodies))
        assert [response.body for response in responses] == [b"ok"] * 9
        assert [request[-1:] for request in server.requests] == bodies
        assert server.connections == 1
        client.close()


async def test_who_waits_is_served_too_when_connections_do_not_last() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with raw_server(saying(closing)) as server:
        client = to(server, max_connections=2)
        responses = await asyncio.gather(*(ask(client) for _ in range(9)))
        assert [response.body for response in responses] == [b"ok"] * 9
        assert server.connections == 9
        client.close()


async def test_waiting_too_long_in_line_is_not_sent_and_harms_nobody() -> None:
    go = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(OK)
        await always_ok(peer)

    async with raw_server(handle) as server:
        client = to(server, max_connections=1)
        first = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0)
        with pytest.raises(NotSent, match="no connection was free"):
            await ask(client, b"late", seconds=0.05)
        go.set()
        assert (await first).body == b"ok"
        assert (await ask(client)).body == b"ok"
        assert [request[-1:] for request in server.requests] == [b"x", b"x"]
        client.close()


@pytest.mark.parametrize("large", [False, True])
async def test_cancelled_at_any_await_nothing_leaks(large: bool) -> None:
    body = b"x" * (3_000_000 if large else 1)
    for steps in range(25):
        async with raw_server(always_ok) as server:
            client = to(server, max_connections=1)
            tasks = [asyncio.ensure_future(ask(client, body)) for _ in range(3)]
            await turns(steps)
            tasks[steps % 3].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for number, task in enumerate(tasks):
                if not task.cancelled():
                    assert task.result().body == b"ok", (steps, number)
            assert (await ask(client, seconds=5)).body == b"ok"
            client.close()


async def test_cancelling_a_request_under_way_closes_its_connection() -> None:
    gone = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.gone()
        gone.set()

    async with raw_server(handle) as server:
        client = to(server)
        task = asyncio.ensure_future(ask(client))
        await server.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 5)
        client.close()


async def test_closing_the_client_ends_whoever_waits() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with raw_server(silent) as server:
        client = to(server, max_connections=1)
        tasks = [asyncio.ensure_future(ask(client)) for _ in range(2)]
        await server.arrived.wait()
        client.close()
        faults = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(fault) for fault in faults] == [Interrupted, NotSent]
        with pytest.raises(NotSent):
            await ask(client)
