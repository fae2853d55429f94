"""The edge: hosts and origins over ASGI, heads on a real socket, buckets, forwarded addresses."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import httpx
import orjson
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.edge import Edge, EdgeProtocol, HeldHead, TokenBuckets, client_ip
from gateway.listeners import Listener, bind
from tests.certificates import a_certificate
from tests.serving import serving

pytestmark = pytest.mark.anyio

HOSTS = {"gateway.example", "127.0.0.1", "::1"}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def ask(path: str, *headers: tuple[str, str]) -> httpx.Response:
    edge = Edge(hello, hosts=HOSTS, origins=["https://app.example"])
    transport = httpx.ASGITransport(edge)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.example") as client:
        return await client.get(path, headers=list(headers))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.example", 200),
        ("GATEWAY.example:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("gateway.example.evil.example", 421),
        ("gateway.example:80@evil.example", 421),
        ("gateway.example:", 421),
        ("gateway.example, evil.example", 421),
        ("", 421),
    ],
)
async def test_only_our_hosts_are_served(host: str, status: int) -> None:
    assert (await ask("/healthz", ("host", host))).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://gateway.example", 200),
        ("https://gateway.example", 200),
        ("https://app.example", 200),
        ("http://app.example", 403),
        ("http://gateway.example:3000", 403),
        ("https://evil.example", 403),
        ("file://gateway.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_only_its_own_pages_and_listed_origins_may_call(origin: str, status: int) -> None:
    assert (await ask("/healthz", ("origin", origin))).status_code == status


@pytest.mark.parametrize("header", ["host", "origin", "authorization", "content-length"])
async def test_a_header_given_twice_is_refused(header: str) -> None:
    answer = await ask("/healthz", (header, "gateway.example"), (header, "gateway.example"))
    assert answer.status_code == 400


async def test_the_refusal_is_json_in_the_form_of_each_door() -> None:
    api = await ask("/api/v1/agents", ("origin", "null"))
    assert api.json()["error"]["code"] == "wrong_origin"
    assert api.json()["error"]["request_id"].startswith("req_")
    proxy = await ask("/api/v1/mcp/proxy/srv_1", ("origin", "null"))
    assert proxy.json()["id"] is None
    assert proxy.json()["error"]["code"] == -32600
    assert "GATEWAY_ALLOWED_ORIGINS" in proxy.json()["error"]["message"]


async def test_hosts_are_remembered_without_bound_for_none() -> None:
    edge = Edge(hello, hosts=HOSTS, origins=())
    for port in range(3000):
        assert edge._fault([(b"host", b"127.0.0.1:%d" % port)]) is None
    assert len(edge._good_hosts) <= 1024


# Addresses

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.7, rubbish, 10.0.0.2"], "10.0.0.2"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::1", ["[2001:db8::1]"], "2001:db8::1"),
    ],
)
def test_the_callers_address_is_the_last_hop_that_nobody_trusted_wrote(
    peer: str, forwarded: list[str], address: str
) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert client_ip({"client": (peer, 1), "headers": headers}, TRUSTED) == address


def test_without_trusted_proxies_only_the_peer_counts() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.7")]
    assert client_ip({"client": ("10.0.0.1", 1), "headers": headers}, ()) == "10.0.0.1"


# Buckets


def test_a_bucket_gives_its_burst_then_its_rate_and_each_key_has_its_own() -> None:
    now = 100.0
    buckets = TokenBuckets(per_second=2, burst=3, clock=lambda: now)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("a") == pytest.approx(0.5), "being refused costs nothing"
    assert buckets.take("b") == 0
    now += 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    now += 100
    assert [buckets.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_buckets_are_bounded_and_the_least_recent_is_forgotten() -> None:
    buckets = TokenBuckets(per_second=1, burst=1, capacity=2, clock=lambda: 0.0)
    buckets.take("a")
    buckets.take("b")
    assert buckets.take("a") > 0
    buckets.take("c")
    assert len(buckets._full_at) == 2


# Heads, on a socket

TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 47\r\nconnection: close\r\n\r\n"
    b"The request's headers took too long to arrive.\n"
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    answer = orjson.dumps({"headers": len(scope["headers"]), "body": len(body)})
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def served(
    limit: int = 32 * 1024, seconds: float = 5.0, app: ASGIApp = echo
) -> AsyncIterator[int]:
    class Protocol(EdgeProtocol):
        head_limit = limit
        head_seconds = seconds

    edge = Edge(app, hosts={"x"}, origins=())
    async with serving(edge, http=Protocol, lifespan="off") as port:
        yield port


def head(*headers: bytes, size: int = 0) -> bytes:
    start = b"POST / HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in headers)
    return start + b"Content-Length: %d\r\n\r\n" % size


async def exchange(port: int, *data: bytes) -> bytes:
    """Send, one piece after the other, and return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(5):
            for piece in data:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            while part := await reader.read(65536):
                answer += part
                if b'"body"' in part:
                    break
    except ConnectionError:
        pass
    finally:
        writer.close()
    return answer


async def test_a_head_at_the_limit_passes_with_a_body_far_over_it() -> None:
    async with served(limit=2000) as port:
        data = head(b"A: " + b"x" * 1800, size=50_000) + b"b" * 50_000
        assert b'"body":50000' in await exchange(port, data)
        assert b'"body":50000' in await exchange(port, data[:1000], data[1000:1900], data[1900:])


async def test_a_head_over_the_limit_is_431_and_closed_whole_or_in_pieces() -> None:
    async with served(limit=2000) as port:
        whole = head(b"A: " + b"x" * 2000)
        many = head(*(b"A%d: x" % n for n in range(400)))
        assert (await exchange(port, whole)).startswith(b"HTTP/1.1 431 ")
        assert (await exchange(port, many)).startswith(b"HTTP/1.1 431 ")
        assert (await exchange(port, many[:1500], many[1500:])).startswith(b"HTTP/1.1 431 ")


async def test_one_endless_header_is_noticed_before_it_ends() -> None:
    async with served(limit=2000) as port:
        pieces = [b"x" * 500] * 5
        answer = await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\nA: ", *pieces)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_an_endless_target_is_noticed_too() -> None:
    async with served(limit=2000) as port:
        answer = await exchange(port, b"GET /" + b"x" * 1500, b"x" * 1500)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_the_limit_holds_for_the_second_request_of_a_connection() -> None:
    async with served(limit=2000) as port:
        first, second = head(size=3) + b"abc", head(b"A: " + b"x" * 2000)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(first)
            assert await reader.readuntil(b'"body":3}')
        writer.write(second)
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", head()[:-2], b"\r\n"])
async def test_a_head_that_does_not_come_in_time_is_closed(sent: bytes) -> None:
    async with served(seconds=0.05) as port:
        answer = await exchange(port, sent)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_dripping_bytes_buys_a_head_no_time() -> None:
    async with served(seconds=0.1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = asyncio.get_running_loop().time()

        async def drip() -> None:
            writer.write(b"GET / HTTP/1.1\r\nA: ")
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        assert asyncio.get_running_loop().time() - started >= 0.09
        writer.close()


async def test_the_second_head_of_a_connection_is_timed_from_its_first_byte() -> None:
    async with served(seconds=0.1) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(size=1) + b"a")
        await reader.readuntil(b'"body":1}')
        await asyncio.sleep(0.15)
        writer.write(b"POST")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_connection_whose_requests_are_whole_in_one_read_is_kept() -> None:
    async with served(seconds=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(head(size=1) + b"a")
            await reader.readuntil(b'"body":1}')
            await asyncio.sleep(0.15)
        writer.write(head(size=2) + b"ab")
        await reader.readuntil(b'"body":2}')
        writer.close()


async def test_a_slow_body_is_not_a_slow_head() -> None:
    async with served(seconds=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(size=2) + b"a")
        await asyncio.sleep(0.1)
        writer.write(b"b")
        await reader.readuntil(b'"body":2}')
        writer.close()


async def test_line_ends_before_a_request_do_not_hold_a_connection_open() -> None:
    async with served(seconds=0.05) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(size=1) + b"a")
        await reader.readuntil(b'"body":1}')
        writer.write(b"\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()


@pytest.mark.parametrize("sent", [b"\r\n", b"GET / HT"])
async def test_a_slow_next_head_does_not_end_the_answer_under_way(sent: bytes) -> None:
    answering = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await answering.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with served(seconds=0.05, app=slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head())
        await reader.readuntil(b"first")
        writer.write(sent)
        await asyncio.sleep(0.15)
        answering.set()
        async with asyncio.timeout(5):
            assert (await reader.read()).endswith(b"4\r\nlast\r\n0\r\n\r\n" + TOO_SLOW)
        writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: 5",),
        (b"Transfer-Encoding: chunked",),
        (b"Host: x",),
        (b"Authorization: Bearer a", b"Authorization: Bearer b"),
    ],
)
async def test_what_frames_or_authorizes_a_request_twice_is_refused(
    headers: tuple[bytes, ...],
) -> None:
    async with served() as port:
        answer = await exchange(port, head(*headers, size=5) + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


class Written(asyncio.Transport):
    """What was written to a connection, packet by packet."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.packets.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
WITH_LENGTH = HEAD + b"content-length: 2\r\n\r\n"
STREAMED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
NOT_YET = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("body", [b"ok", b""])
def test_a_head_that_tells_the_length_leaves_with_its_body(body: bytes) -> None:
    under = Written()
    held = HeldHead(under)
    for data in (NOT_YET, WITH_LENGTH, body, b"more"):
        held.write(data)
    assert under.packets == [NOT_YET, WITH_LENGTH + body, b"more"]


def test_a_streams_head_and_chunks_leave_at_once_whatever_they_hold() -> None:
    under = Written()
    held = HeldHead(under)
    written = [STREAMED, b"20\r\n\r\ncontent-length: 2\r\n", b"0\r\n\r\n"]
    for data in written:
        held.write(data)
    assert under.packets == written


def test_a_head_whose_body_never_comes_leaves_before_the_connection_ends() -> None:
    under = Written()
    held = HeldHead(under)
    held.write(WITH_LENGTH)
    assert under.packets == []
    held.close()
    assert under.packets == [WITH_LENGTH]
    assert held.is_closing()


async def test_an_answer_to_a_post_is_one_packet_and_its_connection_is_kept() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(head(size=2) + b"ab")
            assert (await reader.read(65536)).endswith(b'"body":2}')
        writer.close()


@pytest.mark.parametrize("linger", [0.0, 60.0])
async def test_a_call_that_comes_as_the_gateway_ends_is_answered_on_a_connection_held_for_it(
    linger: float,
) -> None:
    made: list[EdgeProtocol] = []

    class Protocol(EdgeProtocol):
        linger_seconds = linger

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            made.append(self)
            super().connection_made(transport)

    edge = Edge(echo, hosts={"x"}, origins=())
    async with serving(edge, http=Protocol, lifespan="off") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(size=1) + b"a")
        assert b"connection: close" not in await reader.readuntil(b'"body":1}')
        made[0].shutdown()
        if linger:
            writer.write(head(size=2) + b"ab")
            assert b"connection: close" in await reader.readuntil(b'"body":2}')
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_whoever_has_connected_as_the_gateway_ends_is_answered(
    tmp_path: Path, secure: bool
) -> None:
    file = tmp_path / "gateway.pem"
    pem, _ = a_certificate(file)
    files = (file, file) if secure else (None, None)
    trust = ssl.create_default_context(cadata=pem) if secure else None
    name = "127.0.0.1" if secure else None

    async def call(client: socket.socket) -> bytes:
        reader, writer = await asyncio.open_connection(sock=client, ssl=trust, server_hostname=name)
        writer.write(head(size=1) + b"a")
        answer = await reader.readuntil(b'"body":1}')
        writer.close()
        return answer

    with bind("127.0.0.1", 0, "GATEWAY_PORT") as sock:
        listener = Listener(Edge(echo, hosts={"x"}, origins=()), sock, *files)
        running = asyncio.create_task(listener.run_until_told())
        while not listener.started:  # noqa: ASYNC110 - uvicorn sets no event
            await asyncio.sleep(0.01)
        # Connected by the system alone: the loop has no turn between this and the end.
        client = socket.create_connection(sock.getsockname())
        client.setblocking(False)
        calling = asyncio.create_task(call(client))
        await listener.shutdown([sock])
        assert b"connection: close" in await calling
        listener.should_exit = True
        await running


def test_an_idle_connection_outlasts_what_clients_keep_for_their_next_call() -> None:
    """Or now and then a call meets its connection's end, and its client sees a reset."""
    httpx_keeps, nginx_keeps, go_keeps = httpx.Limits().keepalive_expiry, 60.0, 90.0
    assert httpx_keeps is not None
    with bind("127.0.0.1", 0, "GATEWAY_PORT") as sock:
        kept = Listener(Edge(_never, hosts=(), origins=()), sock).config.timeout_keep_alive
    assert kept > max(httpx_keeps, nginx_keeps, go_keeps)


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nobody asks")
