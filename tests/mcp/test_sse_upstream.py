"""Servers of the HTTP+SSE transport: one stream, answers told apart, sessions that end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from mcp.server import MCPServer

from gateway.http1.client import NotSent
from gateway.mcp.scan import ScanFailed, scan
from gateway.mcp.sse_session import endpoint_target
from gateway.mcp.upstream import Upstreams
from gateway.values import Era, Fate, Forwarded, Server
from tests.mcp.builders import (
    HANDLES,
    STREAM_HEAD,
    a_caller,
    a_permit,
    a_request,
    a_response,
    a_server,
    an_answer,
    chunk,
    upstreams,
)
from tests.raw_server import Peer, RawServer, raw_server
from tests.serving import serving

pytestmark = pytest.mark.anyio

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted"
PATIENCE = 20

Hear = Callable[["OldServer", dict[str, Any]], Awaitable[None]]


def said(name: str, data: bytes) -> bytes:
    return chunk(b"event: %s\r\ndata: %s\r\n\r\n" % (name.encode(), data))


def a_message(method: str, rpc_id: int | str | None = None, **params: Any) -> bytes:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    return orjson.dumps(message if rpc_id is None else {**message, "id": rpc_id})


class OldServer:
    """Keeps the last stream that was opened, and answers `initialize` on it."""

    def __init__(self, hear: Hear, endpoint: bytes = b"/messages?session=1") -> None:
        self._hear = hear
        self._endpoint = endpoint
        self.streams: list[Peer] = []
        self.heard: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        """Set once a stream was closed by the gateway."""
        self.called = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.startswith(b"GET"):
                self.streams.append(peer)
                await peer.send(STREAM_HEAD + said("endpoint", self._endpoint))
                await peer.gone()
                self.left.set()
                return
            assert request.startswith(b"POST /messages?session=1 "), request
            message = orjson.loads(request.partition(b"\r\n\r\n")[2])
            self.heard.append(message)
            await peer.send(ACCEPTED)
            if message.get("method") == "initialize":
                await self.say(a_response(message["id"], protocolVersion="2024-11-05"))
            else:
                await self._hear(self, message)

    async def say(self, message: bytes) -> None:
        await self.streams[-1].send(said("message", message))


async def silent(server: OldServer, message: dict[str, Any]) -> None:
    server.called.set()


async def echoing(server: OldServer, message: dict[str, Any]) -> None:
    if "id" in message:
        await server.say(a_response(message["id"], of=message["method"]))


class World:
    def __init__(self, ups: Upstreams, server: Server, raw: RawServer) -> None:
        self.ups = ups
        self.server = server
        self.raw = raw

    async def send(
        self, body: bytes, session: bytes = b"", method: str = "POST", rpc_id: Any = 7
    ) -> Forwarded:
        return await self.ups.relay(
            a_caller(self.server), self.request(body, session, method), rpc_id=rpc_id
        )

    def request(self, body: bytes, session: bytes = b"", method: str = "POST") -> Any:
        headers = [(b"mcp-session-id", session)] if session else []
        caller = a_caller(self.server)
        return HANDLES.inward(caller, a_request(body, *headers, method=method), None)

    async def begin(self) -> bytes:
        """A session, by the name that its client is given."""
        forwarded = await self.send(a_message("initialize", 0))
        assert (forwarded.status, forwarded.reason) == (200, "")
        return dict(forwarded.headers)[b"mcp-session-id"]

    async def call(self, session: bytes, before: Callable[[], None] = lambda: None) -> Forwarded:
        request = self.request(a_message("tools/call", 7, name="add"), session)
        return await self.ups.forward(a_permit(self.server, request, Era.LEGACY), before)


@asynccontextmanager
async def world(handler: Any, **limits: Any) -> AsyncIterator[World]:
    async with raw_server(handler) as raw:
        ups = upstreams(**limits)
        try:
            yield World(ups, a_server(raw.port, transport="sse"), raw)
        finally:
            await ups.close()


async def happens(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE)


async def test_a_session_opens_a_stream_is_answered_and_ends_with_its_client() -> None:
    old = OldServer(echoing)
    async with world(old) as it:
        session = await it.begin()
        answered = await it.call(session)
        told = await it.send(a_message("notifications/initialized"), session)
        ended = await it.send(b"", session, "DELETE")
        await happens(old.left)
        gone = await it.call(session)
    assert (answered.fate, answered.status) == (Fate.ANSWERED, 200)
    assert answered.body == a_response(7, of="tools/call")
    assert (told.status, told.body, ended.status) == (202, b"", 200)
    assert (gone.fate, gone.status) == (Fate.NOT_FORWARDED, 404)
    assert [message["method"] for message in old.heard] == [
        "initialize",
        "tools/call",
        "notifications/initialized",
    ]
    assert all(b"authorization: Bearer upstream-secret\r\n" in one for one in it.raw.requests)
    assert not any(b"mcp-session-id" in one for one in it.raw.requests)


async def test_answers_are_told_apart_by_id_and_its_type_and_progress_by_token() -> None:
    async def hear(server: OldServer, message: dict[str, Any]) -> None:
        if len(server.heard) < 3:
            return
        for token in ("a", "b"):
            await server.say(a_message("notifications/progress", progressToken=token, progress=1))
        await server.say(a_response("1", of="text"))
        await server.say(a_response(1, of="number"))

    async with world(OldServer(hear)) as it:
        session = await it.begin()

        async def ask(rpc_id: int | str, token: str) -> list[bytes]:
            body = a_message("tools/list", rpc_id, _meta={"progressToken": token})
            forwarded = await it.send(body, session, rpc_id=rpc_id)
            assert forwarded.stream is not None
            return [event async for event in forwarded.stream]

        one, other = await asyncio.gather(ask(1, "a"), ask("1", "b"))
    assert [b'"progressToken":"a"' in one[0], one[1]] == [
        True, b"event: message\ndata: %s\n\n" % a_response(1, of="number"),
    ]  # fmt: skip
    assert [b'"progressToken":"b"' in other[0], other[1]] == [
        True, b"event: message\ndata: %s\n\n" % a_response("1", of="text"),
    ]  # fmt: skip


async def test_what_is_said_to_nobody_waits_for_who_listens() -> None:
    async def hear(server: OldServer, message: dict[str, Any]) -> None:
        await server.say(a_message("notifications/tools/list_changed"))
        await server.say(a_message("notifications/resources/list_changed"))

    async with world(OldServer(hear)) as it:
        session = await it.begin()
        await it.send(a_message("notifications/initialized"), session)
        listening = await it.send(b"", session, "GET", None)
        assert listening.stream is not None
        first = await asyncio.wait_for(listening.stream.__anext__(), PATIENCE)
        second = await asyncio.wait_for(listening.stream.__anext__(), PATIENCE)
        twice = await it.send(b"", session, "GET", None)
        await listening.stream.aclose()
        again = await it.send(b"", session, "GET", None)
        assert again.stream is not None
        await again.stream.aclose()
    assert b"tools/list_changed" in first
    assert b"resources/list_changed" in second
    assert twice.status == 409


@pytest.mark.parametrize(
    "endpoint",
    [
        b"http://127.0.0.1:1/messages?session=1",
        b"https://127.0.0.1/messages",
        b"//other.example/messages",
        b"http://user@127.0.0.1/messages",
        b"ftp:///messages",
        b"http://[",
    ],
)
async def test_an_endpoint_of_another_origin_is_never_posted_to(endpoint: bytes) -> None:
    old = OldServer(echoing, endpoint)
    async with world(old) as it:
        forwarded = await it.send(a_message("initialize", 0))
        assert (forwarded.fate, forwarded.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")
        with pytest.raises(ScanFailed, match="endpoint"):
            await scan(it.ups, it.server)
        await happens(old.left)
        assert not any(one.startswith(b"POST") for one in it.raw.requests)


@pytest.mark.parametrize(
    ("url", "named", "target"),
    [
        ("https://a.example/x/sse", b"/messages?s=1", "/messages?s=1"),
        ("https://a.example/x/sse", b"messages", "/x/messages"),
        ("https://a.example/sse", b"https://A.example:443/m", "/m"),
        ("https://a.example/sse", b"?s=1", "/sse?s=1"),
    ],
)
def test_an_endpoint_is_found_from_the_streams_own_url(url: str, named: bytes, target: str) -> None:
    assert endpoint_target(url, named) == target


def test_an_endpoint_that_is_no_ascii_is_none() -> None:
    with pytest.raises(NotSent):
        endpoint_target("https://a.example/sse", "/mé".encode())


async def test_a_stream_that_names_no_endpoint_is_given_up_and_says_so() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD + chunk(b": hello\n\n"))
        await peer.gone()

    async with world(handler, endpoint_seconds=0.1) as it:
        forwarded = await it.send(a_message("initialize", 0))
        assert (forwarded.fate, forwarded.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")
        with pytest.raises(ScanFailed, match=r"named no endpoint within 0\.1 seconds"):
            await scan(it.ups, it.server)


@pytest.mark.parametrize(
    ("answer", "fate", "reason"),
    [
        (an_answer(b"{}"), Fate.NOT_FORWARDED, "upstream_unreachable"),
        (an_answer(b"", status="302 Found"), Fate.NOT_FORWARDED, "upstream_unreachable"),
        (an_answer(b"", status="401 Unauthorized"), Fate.ANSWERED, "upstream_auth"),
    ],
)
async def test_what_is_no_event_stream_begins_no_session(
    answer: bytes, fate: Fate, reason: str
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async with world(handler) as it:
        forwarded = await it.send(a_message("initialize", 0))
        assert (forwarded.fate, forwarded.reason) == (fate, reason)
        with pytest.raises(ScanFailed):
            await scan(it.ups, it.server)


async def test_a_stream_that_breaks_leaves_an_open_call_unknown_and_ends_the_session() -> None:
    async def hear(server: OldServer, message: dict[str, Any]) -> None:
        server.streams[-1].reset()

    old = OldServer(hear)
    async with world(old) as it:
        session = await it.begin()
        broken = await it.call(session)
        gone = await it.call(session)
    assert (broken.fate, broken.reason) == (Fate.UNKNOWN, "upstream_error")
    assert (gone.fate, gone.status) == (Fate.NOT_FORWARDED, 404)
    assert [m["method"] for m in old.heard] == ["initialize", "tools/call"]


async def test_an_event_over_the_limit_is_no_answer() -> None:
    async def hear(server: OldServer, message: dict[str, Any]) -> None:
        await server.say(a_response(7, text="x" * 2000))

    async with world(OldServer(hear), event_bytes=1000) as it:
        assert (await it.call(await it.begin())).fate is Fate.UNKNOWN
    async with world(OldServer(hear), answer_bytes=1000) as it:
        large = await it.call(await it.begin())
        assert (large.fate, large.reason) == (Fate.ANSWERED, "answer_too_large")


async def test_an_answer_that_tells_the_credential_is_withheld() -> None:
    async def hear(server: OldServer, message: dict[str, Any]) -> None:
        await server.say(a_response(7, text="upstream-secret"))

    async with world(OldServer(hear)) as it:
        assert (await it.call(await it.begin())).reason == "answer_withheld"


async def test_the_last_act_runs_before_the_post_and_can_prevent_it() -> None:
    def no() -> None:
        raise RuntimeError("not any more")

    old = OldServer(echoing)
    async with world(old) as it:
        session = await it.begin()
        with pytest.raises(RuntimeError):
            await it.call(session, no)
        assert (await it.call(session)).status == 200
    assert [m["method"] for m in old.heard] == ["initialize", "tools/call"]


async def test_a_stop_ends_the_wait_and_tells_the_server() -> None:
    async def hear(server: OldServer, message: dict[str, Any]) -> None:
        server.called.set()
        if message["method"] == "notifications/cancelled":
            told.set()

    told = asyncio.Event()
    old = OldServer(hear)
    async with world(old) as it:
        session = await it.begin()
        calling = asyncio.create_task(it.call(session))
        await happens(old.called)
        assert it.ups.cut(lambda caller: True) == 1
        cut = await asyncio.wait_for(calling, PATIENCE)
        if cut.stream is not None:
            assert b"emergency_stop" in b"".join([event async for event in cut.stream])
        else:
            assert (cut.fate, cut.reason) == (Fate.UNKNOWN, "emergency_stop")
        await happens(told)
    assert old.heard[-1]["params"]["requestId"] == 7


async def test_an_id_that_is_open_already_is_not_sent_again() -> None:
    old = OldServer(silent)
    async with world(old) as it:
        session = await it.begin()
        calling = asyncio.create_task(it.call(session))
        await happens(old.called)
        again = await it.call(session)
        assert again.fate is Fate.NOT_FORWARDED
        it.ups.cut(lambda caller: True)
        await calling
    assert [m["method"] for m in old.heard].count("tools/call") == 1


async def test_sessions_are_bounded_and_one_that_is_not_used_gives_way() -> None:
    old = OldServer(silent)
    async with world(old, sessions=2) as it:
        first, second = await it.begin(), await it.begin()
        third = await it.begin()
        assert (await it.send(b"", first, "GET", None)).status == 404
        listening = [await it.send(b"", name, "GET", None) for name in (second, third)]
        full = await it.send(a_message("initialize", 0))
        assert (full.fate, full.status) == (Fate.NOT_FORWARDED, 503)
        for one in listening:
            assert one.stream is not None
            await one.stream.aclose()
        await it.begin()


async def test_a_session_that_is_not_used_ends() -> None:
    old = OldServer(silent)
    async with world(old, idle_seconds=0.2) as it:
        session = await it.begin()
        await happens(old.left)
        assert (await it.send(b"", session, "GET", None)).status == 404


async def test_a_session_of_a_server_that_changed_ends() -> None:
    old = OldServer(echoing)
    async with world(old) as it:
        session = await it.begin()
        it.ups.drop(it.server.id)
        await happens(old.left)
        assert (await it.call(session)).status == 404


async def test_without_a_session_nothing_is_sent() -> None:
    old = OldServer(echoing)
    async with world(old) as it:
        for method in ("POST", "GET", "DELETE"):
            body = a_message("tools/list", 1) if method == "POST" else b""
            assert (await it.send(body, method=method)).status == 400
        assert (await it.send(a_message("tools/list", 1), b"foreign")).status == 404
    assert it.raw.requests == []


async def test_the_sdks_server_is_scanned() -> None:
    server = MCPServer("old", log_level="ERROR")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async with serving(server.sse_app()) as port:
        ups = upstreams()
        url = f"http://127.0.0.1:{port}/sse"
        walk = await scan(ups, a_server(port, url=url, transport="sse"))
        await ups.close()
    assert [definition["name"] for definition in walk.definitions] == ["add"]
    assert walk.complete
    assert walk.protocol_version == "2025-11-25"
