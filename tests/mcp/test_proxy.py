"""The endpoint behind a real uvicorn: bodies in, answers out, and who hangs up when."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from gateway.edge import EdgeProtocol
from gateway.flows import ByteStream
from gateway.mcp.proxy import BodyLimits, Proxy
from gateway.values import Answer, Request
from tests.serving import serving

pytestmark = pytest.mark.anyio

PATH = "/api/v1/mcp/proxy/srv_1"
Answering = Callable[[Request], Awaitable[Answer]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that serves in production."""
    return "asyncio", {"use_uvloop": True}


class Handler:
    """Answers as the test says, and keeps what was asked."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.requests: list[Request] = []

    async def handle(self, request: Request) -> Answer:
        self.requests.append(request)
        return await self._answering(request)


class Stream:
    """A body whose chunks come through a queue; None ends it."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.taken = 0
        self.closed = asyncio.Event()

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.chunks.get()
        if chunk is None:
            raise StopAsyncIteration
        self.taken += 1
        return chunk

    async def aclose(self) -> None:
        self.closed.set()


@asynccontextmanager
async def served(
    handler: Handler, limits: BodyLimits | None = None, **options: float
) -> AsyncIterator[int]:
    proxy = Proxy(handler, limits=limits, **options)  # type: ignore[arg-type]
    app = Starlette(routes=[Route("/api/v1/mcp/proxy/{server_id}", proxy)])
    async with serving(app, http=EdgeProtocol, lifespan="off") as port:
        yield port


async def ok(request: Request) -> Answer:
    return Answer(200, ((b"content-type", b"application/json"), (b"x-trace-id", b"trc_1")), b"{}")


def streaming(stream: ByteStream) -> Answering:
    async def answer(request: Request) -> Answer:
        return Answer(200, ((b"content-type", b"text/event-stream"),), stream=stream)

    return answer


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST %s HTTP/1.1" % PATH.encode(), b"Host: x", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0.001)


async def test_a_message_goes_in_as_it_came_and_its_answer_out_with_a_length() -> None:
    handler = Handler(ok)
    async with served(handler) as port, httpx.AsyncClient(trust_env=False) as client:
        body = b'{ "id" : 1.0 }'
        answer = await client.post(
            f"http://127.0.0.1:{port}{PATH}", content=body, headers={"Mcp-Param-X": "1"}
        )
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert answer.headers["content-length"] == "2"
    assert answer.headers["x-trace-id"] == "trc_1"
    (request,) = handler.requests
    assert (request.method, request.server_id, request.body) == ("POST", "srv_1", body)
    assert request.client_ip == "127.0.0.1"
    assert (b"mcp-param-x", b"1") in request.headers


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_get_and_delete_pass_without_a_body(method: str) -> None:
    handler = Handler(ok)
    async with served(handler) as port, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.request(method, f"http://127.0.0.1:{port}{PATH}")
        doubled = await client.request(
            method,
            f"http://127.0.0.1:{port}{PATH}",
            headers=[("Mcp-Session-Id", "a"), ("Mcp-Session-Id", "b")],
        )
    assert answer.status_code == 200
    assert doubled.status_code == 400
    assert [r.method for r in handler.requests] == [method]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "HEAD"])
async def test_other_methods_are_told_which_are_allowed(method: str) -> None:
    handler = Handler(ok)
    async with served(handler) as port, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.request(method, f"http://127.0.0.1:{port}{PATH}")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST, GET, DELETE"
    assert handler.requests == []


@pytest.mark.parametrize("status", [202, 204])
async def test_an_answer_without_a_body_leaves_the_connection_usable(status: int) -> None:
    async def empty(request: Request) -> Answer:
        return Answer(status, ())

    async with served(Handler(empty)) as port, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            answer = await client.post(f"http://127.0.0.1:{port}{PATH}", content=b"{}")
            assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize("value", [b"a\r\nx-other: b", b"a\nb", b"a\0b"])
async def test_a_header_with_a_line_break_is_never_written(value: bytes) -> None:
    async def answer(request: Request) -> Answer:
        return Answer(200, ((b"x-trace-id", value),), b"{}")

    async with served(Handler(answer)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}"))
        answered = await reader.read()
        writer.close()
    assert answered == b""


async def test_who_asks_for_it_has_the_connection_closed_behind_the_answer() -> None:
    async with served(Handler(ok)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}", b"Connection: close"))
        answered = await reader.read()
        writer.close()
    assert b"\r\nconnection: close\r\n" in answered
    assert answered.endswith(b"\r\n\r\n{}")


async def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    async def answer(request: Request) -> Answer:
        await asyncio.sleep(0 if request.body == b"2" else 0.01)
        return Answer(200, (), request.body)

    async with served(Handler(answer)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"1") + post(b"2") + post(b"3", b"Connection: close"))
        answered = await reader.read()
        writer.close()
    assert [part[-1:] for part in answered.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_in_json_and_not_handled(chunked: bool) -> None:
    handler = Handler(ok)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 50

    content = pieces() if chunked else b"x" * 101
    async with (
        served(handler, BodyLimits(max_bytes=100)) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.post(f"http://127.0.0.1:{port}{PATH}", content=content)
    assert answer.status_code == 413
    assert orjson.loads(answer.content)["error"]["code"] == -32600
    assert answer.headers["connection"] == "close"
    assert handler.requests == []


async def test_a_chunked_body_over_the_limit_is_refused_also_when_it_comes_at_once() -> None:
    handler = Handler(ok)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()
    async with served(handler, BodyLimits(max_bytes=100)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
    assert handler.requests == []


async def test_a_body_of_exactly_the_limit_passes() -> None:
    handler = Handler(ok)
    async with (
        served(handler, BodyLimits(max_bytes=100)) as port,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.post(f"http://127.0.0.1:{port}{PATH}", content=b"x" * 100)
    assert answer.status_code == 200


async def test_a_body_that_does_not_come_times_out() -> None:
    handler = Handler(ok)
    async with served(handler, BodyLimits(seconds=0.05)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}")[:-1])
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        assert await reader.read()
        writer.close()
    assert handler.requests == []


async def test_bytes_that_come_buy_time_for_more() -> None:
    handler = Handler(ok)
    limits = BodyLimits(seconds=0.05, bytes_per_second=100)
    async with served(handler, limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = post(b"x" * 30)
        writer.write(data[:-1])
        await asyncio.sleep(0.1)
        writer.write(data[-1:])
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert len(handler.requests) == 1


async def test_a_client_that_leaves_within_its_body_is_not_handled() -> None:
    handler = Handler(ok)
    async with served(handler) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}")[:-1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert handler.requests == []


async def test_gone_tells_a_caller_that_hung_up_from_one_that_waits() -> None:
    asked, go = asyncio.Event(), asyncio.Event()
    told: list[bool] = []

    async def wait(request: Request) -> Answer:
        told.extend([request.gone(), request.gone()])
        asked.set()
        await go.wait()
        await until(request.gone)
        told.append(request.gone())
        return await ok(request)

    async with served(Handler(wait)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}"))
        await asked.wait()
        writer.close()
        await writer.wait_closed()
        go.set()
        await until(lambda: len(told) == 3)
    assert told == [False, False, True]


async def test_asking_whether_the_caller_is_gone_does_not_disturb_the_next_request() -> None:
    async def ask(request: Request) -> Answer:
        assert not request.gone()
        return Answer(200, (), request.body)

    async with served(Handler(ask)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # The second is there already, behind the first, when the first one asks.
        writer.write(post(b"one") + post(b"two"))
        answers = b""
        async with asyncio.timeout(5):
            while not answers.endswith(b"two"):
                answers += await reader.read(1000)
        writer.close()
    assert answers.count(b"HTTP/1.1 200") == 2


async def test_chunks_leave_as_they_come() -> None:
    stream = Stream()
    async with served(Handler(streaming(stream))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        for data in (b"data: 1\n\n", b"data: 2\n\n"):
            stream.chunks.put_nowait(data)
            assert await reader.readexactly(14) == b"9\r\n" + data + b"\r\n"
        stream.chunks.put_nowait(None)
        assert await reader.readexactly(5) == b"0\r\n\r\n"
        await asyncio.wait_for(stream.closed.wait(), 5)
        writer.close()


async def test_a_silent_stream_gets_comments_and_only_between_events() -> None:
    stream, silence = Stream(), 0.03
    content = b""
    async with (
        served(Handler(streaming(stream)), silence_seconds=silence) as port,
        httpx.AsyncClient(timeout=10, trust_env=False) as client,
        client.stream("POST", f"http://127.0.0.1:{port}{PATH}", content=b"{}") as response,
    ):
        chunks = response.aiter_raw()
        content += await anext(chunks)
        stream.chunks.put_nowait(b"data: 1\n\n")
        while not content.endswith(b"data: 1\n\n:\n\n"):
            content += await anext(chunks)
        stream.chunks.put_nowait(b"data: a ha")
        while b"data: a ha" not in content:
            content += await anext(chunks)
        await asyncio.sleep(4 * silence)
        stream.chunks.put_nowait(b"lf\n\n")
        stream.chunks.put_nowait(None)
        async for chunk in chunks:
            content += chunk
    assert content.startswith(b":\n\n")
    assert content.replace(b":\n\n", b"") == b"data: 1\n\ndata: a half\n\n"


async def test_a_client_that_leaves_a_silent_stream_closes_it() -> None:
    stream = Stream()
    async with served(Handler(streaming(stream))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}"))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await asyncio.wait_for(stream.closed.wait(), 5)


async def test_a_client_that_does_not_read_holds_the_stream_back() -> None:
    stream = Stream()
    for _ in range(200):
        stream.chunks.put_nowait(b"x" * 100_000)
    async with served(Handler(streaming(stream))) as port:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", port))
            await loop.sock_sendall(slow, post(b"{}"))
            await until(lambda: stream.taken > 0)
            seen = -1
            while seen != stream.taken:
                seen = stream.taken
                await asyncio.sleep(0.05)
            assert stream.taken < 200
        await asyncio.wait_for(stream.closed.wait(), 5)


async def test_a_stream_that_fails_is_closed_and_its_connection_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Stream):
        async def __anext__(self) -> bytes:
            raise RuntimeError("broken")

    stream = Failing()
    async with served(Handler(streaming(stream))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}"))
        answer = await reader.read()
        writer.close()
    assert not answer.endswith(b"0\r\n\r\n")
    assert stream.closed.is_set()
    assert "RuntimeError: broken" in caplog.text


async def test_a_server_that_shuts_down_closes_its_streams() -> None:
    stream = Stream()
    handler = Handler(streaming(stream))
    async with served(handler) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(b"{}"))
        await reader.readuntil(b"\r\n\r\n")
        task = next(task for task in asyncio.all_tasks() if "run_asgi" in repr(task.get_coro()))
        task.cancel()
        await asyncio.wait_for(stream.closed.wait(), 5)
        writer.close()
