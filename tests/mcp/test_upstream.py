"""Forwarding over real sockets: what crosses, what becomes of broken answers, how streams end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from gateway.mcp.upstream import Upstreams
from gateway.refusals import Refused
from gateway.values import Era, Fate, Forwarded, Server
from tests.certificates import a_certificate
from tests.mcp.builders import (
    JSON,
    SEALS,
    SESSION,
    STREAM_HEAD,
    a_caller,
    a_permit,
    a_request,
    a_response,
    a_server,
    an_answer,
    chunk,
    event,
    upstreams,
)
from tests.raw_server import Handler, Peer, RawServer, raw_server

pytestmark = pytest.mark.anyio

PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}'


def sealed_event(server: Server, name: bytes) -> bytes:
    return SEALS.seal("event", a_caller(server), name)


def nothing() -> None:
    return None


@asynccontextmanager
async def world(
    handler: Handler, **limits: float
) -> AsyncIterator[tuple[Upstreams, Server, RawServer]]:
    async with raw_server(handler) as raw:
        ups = upstreams(**limits)
        try:
            yield ups, a_server(raw.port), raw
        finally:
            await ups.close()


def answering(data: bytes) -> Handler:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(data)

    return handler


async def call(ups: Upstreams, server: Server, era: Era = Era.MODERN) -> Forwarded:
    return await ups.forward(a_permit(server, a_request(), era), nothing)


async def test_only_the_protocols_headers_cross_and_the_body_is_the_callers_bytes() -> None:
    body = b'{ "jsonrpc" : "2.0","id":7 }'
    request = a_request(
        body,
        (b"host", b"gateway.example"),
        (b"authorization", b"Bearer gwp_secret"),
        (b"cookie", b"a=b"),
        (b"origin", b"https://app.example"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"accept-encoding", b"gzip"),
        (b"connection", b"keep-alive, mcp-param-hop"),
        (b"mcp-param-hop", b"1"),
        (b"mcp-param-region", b"us-west1"),
        (b"mcp-protocol-version", b"2026-07-28"),
        (b"mcp-method", b"tools/call"),
        (b"mcp-name", b"add"),
        (b"mcp-session-id", b"s"),
        (b"last-event-id", b"9"),
        (b"traceparent", b"00-1"),
        (b"x-other", b"no"),
    )
    async with world(answering(an_answer(b"{}"))) as (ups, server, raw):
        await ups.forward(a_permit(server, request), nothing)
        head, _, sent = raw.requests[0].partition(b"\r\n\r\n")
    assert sent == body
    line, *lines = head.decode().split("\r\n")
    assert line == "POST /mcp HTTP/1.1"
    assert sorted(lines) == sorted(
        [
            f"host: 127.0.0.1:{raw.port}",
            "accept-encoding: identity",
            "authorization: Bearer upstream-secret",
            "content-type: application/json",
            "accept: application/json, text/event-stream",
            "mcp-param-region: us-west1",
            "mcp-protocol-version: 2026-07-28",
            "mcp-method: tools/call",
            "mcp-name: add",
            "mcp-session-id: s",
            "last-event-id: 9",
            "traceparent: 00-1",
            f"content-length: {len(body)}",
        ]
    )


async def test_what_repeats_the_body_crosses_only_where_it_was_held_to_the_body() -> None:
    said = ((b"mcp-method", b"ping"), (b"mcp-name", b"read"), (b"mcp-param-region", b"eu"))
    asked = a_request(b"{}", *said)
    async with world(answering(an_answer(b"{}"))) as (ups, server, raw):
        for era in (Era.LEGACY, Era.MODERN):
            await ups.relay(a_caller(server), asked, era=era)
        legacy, modern = (request.partition(b"\r\n\r\n")[0] for request in raw.requests)
    for name, value in said:
        assert name not in legacy
        assert b"\r\n%b: %b\r\n" % (name, value) in modern


async def test_a_caller_cannot_set_the_header_that_carries_the_credential() -> None:
    async with world(answering(an_answer(b"{}"))) as (ups, server, raw):
        mine = a_server(raw.port, auth_headers=((b"Mcp-Param-Token", b"ours"),))
        await ups.relay(
            a_caller(mine), a_request(b"{}", (b"mcp-param-token", b"theirs")), era=Era.MODERN
        )
        assert b"theirs" not in raw.requests[0]
        assert b"ours" in raw.requests[0]


async def test_a_server_is_believed_by_its_own_authority_and_no_other(tmp_path: Path) -> None:
    (pem, serving), (other, _) = (a_certificate(tmp_path / name) for name in ("a", "b"))
    async with raw_server(answering(an_answer(b"{}")), ssl=serving) as raw:
        ups = upstreams()
        url = f"https://127.0.0.1:{raw.port}/mcp"
        assert (await call(ups, a_server(0, url=url, tls_ca=pem))).body == b"{}"
        for ca in (other, None):
            refused = await call(ups, a_server(0, url=url, tls_ca=ca))
            assert (refused.fate, refused.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")
        await ups.close()
        assert len(raw.requests) == 1


async def test_a_plain_answer_comes_back_whole_with_the_headers_that_may() -> None:
    answer = an_answer(
        b'{"a":1}', "Mcp-Session-Id: s2", "Set-Cookie: a=b", "Server: x", "Retry-After: 3",
        "WWW-Authenticate: Bearer", "Access-Control-Allow-Origin: *", status="404 Not Found",
    )  # fmt: skip
    async with world(answering(answer)) as (ups, server, _):
        forwarded = await call(ups, server)
    session = SEALS.seal("session", a_caller(server), b"s2")
    assert forwarded == Forwarded(
        Fate.ANSWERED,
        404,
        (JSON, (b"mcp-session-id", session), (b"retry-after", b"3")),
        body=b'{"a":1}',
    )


async def test_a_get_has_no_body_and_a_202_answers_with_none() -> None:
    async with world(answering(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")) as (
        ups,
        server,
        raw,
    ):
        got = await ups.relay(a_caller(server), a_request(b"", method="GET"))
        accepted = await ups.relay(a_caller(server), a_request(PROGRESS))
    assert b"content-length" not in raw.requests[0]
    assert (got.body, accepted.status, accepted.body) == (b"", 202, b"")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("401 Unauthorized", "upstream_auth"),
        ("403 Forbidden", "upstream_auth"),
        ("302 Found", "upstream_error"),
        ("307 Temporary Redirect", "upstream_error"),
        ("304 Not Modified", "upstream_error"),
    ],
)
async def test_what_speaks_of_our_credential_or_of_another_address_is_not_relayed(
    status: str, reason: str
) -> None:
    answer = an_answer(b"{}", "Location: http://127.0.0.1:1/", status=status)
    async with world(answering(answer)) as (ups, server, raw):
        forwarded = await call(ups, server)
        assert len(raw.requests) == 1
    assert (forwarded.fate, forwarded.reason) == (Fate.ANSWERED, reason)
    assert forwarded.status == int(status[:3])
    assert forwarded.body is None


async def test_an_encoded_answer_is_not_relayed() -> None:
    async with world(answering(an_answer(b"\x1f\x8b", "Content-Encoding: gzip"))) as (ups, srv, _):
        forwarded = await call(ups, srv)
    assert (forwarded.fate, forwarded.reason) == (Fate.ANSWERED, "answer_unreadable")


async def test_an_answer_over_the_limit_is_withheld_but_the_call_was_made() -> None:
    async with world(answering(an_answer(b"x" * 101)), answer_bytes=100) as (ups, server, _):
        forwarded = await call(ups, server)
    assert (forwarded.fate, forwarded.reason) == (Fate.ANSWERED, "answer_too_large")


async def test_an_unreachable_server_surely_ran_nothing() -> None:
    async with raw_server(answering(b"")) as raw:
        port = raw.port
    ups = upstreams()
    forwarded = await call(ups, a_server(port))
    await ups.close()
    assert (forwarded.fate, forwarded.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")


async def test_an_address_that_the_guard_refuses_is_not_connected_to() -> None:
    async with world(answering(an_answer(b"{}"))) as (ups, server, raw):
        forwarded = await call(ups, a_server(raw.port, allow_private_network=False))
        assert raw.connections == 0
    assert forwarded.fate is Fate.NOT_FORWARDED


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"SMTP"])
async def test_an_answer_that_breaks_off_leaves_it_unknown_and_is_never_asked_for_again(
    said: bytes,
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)
        peer.reset()

    async with world(handler) as (ups, server, raw):
        forwarded = await call(ups, server)
        assert len(raw.requests) == raw.connections == 1
    assert (forwarded.fate, forwarded.reason) == (Fate.UNKNOWN, "upstream_error")


async def test_a_server_that_does_not_answer_in_time_leaves_it_unknown() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with world(handler, head_seconds=0.05) as (ups, server, _):
        forwarded = await call(ups, server)
    assert (forwarded.fate, forwarded.reason) == (Fate.UNKNOWN, "upstream_error")


async def test_whatever_the_last_check_raises_nothing_was_sent() -> None:
    def refuse() -> None:
        raise Refused("emergency_stop")

    async with world(answering(an_answer(b"{}"))) as (ups, server, raw):
        with pytest.raises(Refused):
            await ups.forward(a_permit(server, a_request()), refuse)
        await call(ups, server)
        assert len(raw.requests) == 1
        assert ups.cut(lambda caller: True) == 0


async def test_a_new_revision_of_a_server_gets_new_connections() -> None:
    async with world(answering(an_answer(b"{}"))) as (ups, server, raw):
        await call(ups, server)
        await call(ups, server)
        assert raw.connections == 1
        await call(ups, a_server(raw.port, revision=2))
        assert raw.connections == 2
        ups.drop(server.id)
        await call(ups, a_server(raw.port, revision=2))
        assert raw.connections == 3


# Streams


class Script:
    """A server whose answers are sent when the test says so."""

    def __init__(self, *said: bytes) -> None:
        self.said = said
        self.more: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.client_left = asyncio.Event()
        self.streamed = False

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        if self.streamed:
            await peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            return
        self.streamed = True
        watch = asyncio.create_task(self._watch(peer))
        for data in self.said:
            await peer.send(data)
        while (more := await self.more.get()) is not None:
            await peer.send(more)
        watch.cancel()

    async def _watch(self, peer: Peer) -> None:
        await peer.gone()
        self.client_left.set()
        self.more.put_nowait(None)


async def all_of(forwarded: Forwarded) -> list[bytes]:
    assert forwarded.stream is not None
    return [item async for item in forwarded.stream]


async def test_events_pass_one_by_one_as_they_come_byte_for_byte() -> None:
    first, second = event(PROGRESS), b"id: 2\r\ndata: " + a_response(ok=True) + b"\r\n\r\n"
    script = Script(STREAM_HEAD, chunk(first))
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server)
        stream = forwarded.stream
        assert stream is not None
        assert forwarded.headers[-1] == (b"x-accel-buffering", b"no")
        assert await anext(aiter(stream)) == first
        assert stream.response == b""
        for byte in second:
            script.more.put_nowait(chunk(bytes([byte])))
        sealed = b"id: %b\r" % sealed_event(server, b"2")
        assert await anext(aiter(stream)) == second.replace(b"id: 2\r", sealed)
        assert stream.response == a_response(ok=True)
        script.more.put_nowait(b"0\r\n\r\n")
        assert await all_of(forwarded) == []
        assert stream.ended == "complete"
        assert ups.cut(lambda caller: True) == 0


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
async def test_an_event_that_its_stream_left_unfinished_is_none(end: bytes) -> None:
    unfinished = b"id: 9\ndata: " + a_response(ok=True) + end
    script = Script(STREAM_HEAD, chunk(event(PROGRESS) + unfinished), b"0\r\n\r\n")
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server)
        assert await all_of(forwarded) == [event(PROGRESS)]
        assert forwarded.stream is not None
        assert (forwarded.stream.ended, forwarded.stream.response) == ("complete", b"")


async def test_closing_the_stream_closes_the_upstreams() -> None:
    script = Script(STREAM_HEAD, chunk(event(PROGRESS)))
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server)
        assert forwarded.stream is not None
        await anext(aiter(forwarded.stream))
        await forwarded.stream.aclose()
        await asyncio.wait_for(script.client_left.wait(), 5)
        assert forwarded.stream.ended == "closed"


async def test_a_reader_that_is_cancelled_closes_the_upstream() -> None:
    script = Script(STREAM_HEAD)
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server)
        assert forwarded.stream is not None
        reading = asyncio.ensure_future(all_of(forwarded))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await asyncio.wait_for(script.client_left.wait(), 5)


@pytest.mark.parametrize(
    ("era", "sent", "told"),
    [
        (Era.MODERN, event(PROGRESS), True),
        (Era.MODERN, b"id: 1\n" + event(PROGRESS), True),
        (Era.LEGACY, event(PROGRESS), True),
        # A client of the legacy era can resume it.
        (Era.LEGACY, b"id: 1\n" + event(PROGRESS), False),
    ],
)
async def test_a_stream_that_breaks_tells_whoever_would_wait_for_ever(
    era: Era, sent: bytes, told: bool
) -> None:
    script = Script(STREAM_HEAD, chunk(sent), chunk(b"data: {half"))
    script.more.put_nowait(None)
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server, era)
        items = await all_of(forwarded)
        assert forwarded.stream is not None
        assert forwarded.stream.ended == "broken"
    assert items[0] == sent.replace(b"id: 1\n", b"id: %b\n" % sealed_event(server, b"1"))
    if not told:
        assert len(items) == 1
        return
    error = orjson.loads(items[1].partition(b"data: ")[2])
    assert (error["id"], error["error"]["code"]) == (7, -31006)
    assert error["error"]["data"]["trace_id"] == "trc_1"


async def test_a_silent_stream_ends_at_its_idle_limit_only() -> None:
    script = Script(STREAM_HEAD, chunk(event(PROGRESS)))
    async with world(script, idle_seconds=1, head_seconds=0.5) as (ups, server, _):
        # The time-out for heads and plain answers must not count here.
        forwarded = await call(ups, server)
        items = await all_of(forwarded)
        assert forwarded.stream is not None
        assert forwarded.stream.ended == "broken"
    assert len(items) == 2


async def test_a_cut_stream_ends_with_an_error_for_its_open_id_and_closes_the_upstream() -> None:
    script = Script(STREAM_HEAD, chunk(event(PROGRESS)), chunk(b"data: {half"))
    async with world(script) as (ups, server, raw):
        forwarded = await call(ups, server)
        assert forwarded.stream is not None
        await anext(aiter(forwarded.stream))
        reading = asyncio.ensure_future(all_of(forwarded))
        await asyncio.sleep(0)
        assert ups.cut(lambda caller: caller.server.id != server.id) == 0
        assert ups.cut(lambda caller: caller.server.id == server.id) == 1
        (last,) = await reading
        await asyncio.wait_for(script.client_left.wait(), 5)
        assert forwarded.stream.ended == "cut"
        # In the modern era closing the stream says it all.
        assert len(raw.requests) == 1
        assert ups.cut(lambda caller: True) == 0
    error = orjson.loads(last.partition(b"data: ")[2])
    assert error["id"] == 7
    assert error["error"]["code"] == -31001
    assert error["error"]["data"] == {
        "reason_code": "emergency_stop",
        "retryable": False,
        "trace_id": "trc_1",
    }


async def test_events_that_wait_for_the_reader_do_not_pass_after_a_cut() -> None:
    script = Script(STREAM_HEAD, chunk(event(PROGRESS) * 3))
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server)
        assert forwarded.stream is not None
        await anext(aiter(forwarded.stream))
        ups.cut(lambda caller: True)
        (last,) = await all_of(forwarded)
    assert b"-31001" in last


async def test_a_cut_in_the_legacy_era_is_told_to_the_server_too() -> None:
    script = Script(STREAM_HEAD, chunk(event(PROGRESS)))
    async with world(script) as (ups, server, raw):
        request = a_request(b"{}", SESSION)
        forwarded = await ups.relay(
            a_caller(server), request, rpc_id="r-1", era=Era.LEGACY, trace_id=""
        )
        assert ups.cut(lambda caller: True) == 1
        assert len(await all_of(forwarded)) == 1
        await asyncio.wait_for(asyncio.gather(*ups._farewells), 5)
        head, _, body = raw.requests[1].partition(b"\r\n\r\n")
    assert b"mcp-session-id: s1" in head
    assert b"authorization: Bearer upstream-secret" in head
    message = orjson.loads(body)
    assert message["method"] == "notifications/cancelled"
    assert message["params"]["requestId"] == "r-1"


async def test_a_cut_stream_whose_response_has_passed_just_ends() -> None:
    script = Script(STREAM_HEAD, chunk(event(a_response())))
    async with world(script) as (ups, server, _):
        forwarded = await call(ups, server)
        assert forwarded.stream is not None
        await anext(aiter(forwarded.stream))
        ups.cut(lambda caller: True)
        assert await all_of(forwarded) == []


async def test_a_stop_also_cuts_a_call_that_waits_for_its_answer() -> None:
    asked = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()

    async with world(handler) as (ups, server, _):
        calling = asyncio.create_task(call(ups, server))
        await asyncio.wait_for(asked.wait(), 5)
        assert ups.cut(lambda caller: True) == 1
        assert ups.cut(lambda caller: True) == 0
        forwarded = await calling
        assert calling.cancelling() == 0
    assert (forwarded.fate, forwarded.reason) == (Fate.UNKNOWN, "emergency_stop")


async def test_a_cut_does_not_swallow_a_cancellation_that_comes_with_it() -> None:
    asked = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()

    async with world(handler) as (ups, server, _):
        calling = asyncio.create_task(call(ups, server))
        await asyncio.wait_for(asked.wait(), 5)
        ups.cut(lambda caller: True)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert ups.cut(lambda caller: True) == 0


@pytest.mark.parametrize("era", [Era.MODERN, Era.LEGACY])
async def test_who_hangs_up_before_the_answer_begins_cancels_in_the_modern_era_only(
    era: Era,
) -> None:
    gone = False
    asked = asyncio.Event()
    upstream_closed = asyncio.Event()

    async def handler(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()
        upstream_closed.set()

    async with world(handler, look_seconds=0.01, head_seconds=0.3) as (ups, server, _):
        request = replace(a_request(), gone=lambda: gone)
        permit = a_permit(server, request, era)
        calling = asyncio.create_task(ups.forward(permit, nothing))
        await asyncio.wait_for(asked.wait(), 5)
        gone = True
        forwarded = await calling
        await asyncio.wait_for(upstream_closed.wait(), 5)
    # In the legacy era a client may come back for its answer.
    reason = "caller_left" if era is Era.MODERN else "upstream_error"
    assert (forwarded.fate, forwarded.reason) == (Fate.UNKNOWN, reason)


async def test_an_event_over_the_limit_is_refused_and_nothing_after_it_passes() -> None:
    script = Script(STREAM_HEAD, chunk(event(PROGRESS) + b"data: " + b"x" * 200))
    async with world(script, event_bytes=150) as (ups, server, _):
        forwarded = await call(ups, server)
        assert forwarded.stream is not None
        first, last = await all_of(forwarded)
    assert first == event(PROGRESS)
    assert b'"code":-31009' in last
    assert forwarded.stream.ended == "oversize"
    assert forwarded.stream.response == b""


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        (b"Bearer upstream-secret", b"upstream-secret"),
        (b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", b"open sesame"),
        (b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", b"QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
    ],
)
async def test_an_answer_that_tells_the_gateways_credential_does_not_pass(
    header: bytes, secret: bytes
) -> None:
    echo = a_response(text=f"you sent {secret.decode()}")
    for script in (
        answering(an_answer(echo)),
        Script(
            STREAM_HEAD, chunk(event(PROGRESS) + event(echo) + b"data: " + secret), b"0\r\n\r\n"
        ),
    ):
        async with world(script) as (ups, server, _):
            mine = replace(server, auth_headers=((b"authorization", header),))
            forwarded = await call(ups, mine)
            if forwarded.stream is None:
                assert (forwarded.fate, forwarded.reason) == (Fate.ANSWERED, "answer_withheld")
                assert forwarded.body is None
            else:
                passed = await all_of(forwarded)
                assert passed[0] == event(PROGRESS)
                assert secret not in b"".join(passed)
                assert b'"reason_code":"answer_withheld"' in passed[-1]
                assert forwarded.stream.ended == "withheld"
                assert forwarded.stream.response == b""
