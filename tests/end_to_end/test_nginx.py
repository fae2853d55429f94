"""What deploy/nginx.conf does with a gateway that is gone, seen by servers that count."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.nginx import Nginx, free_port, nginx_before

pytestmark = pytest.mark.anyio

PROXY = "/api/v1/mcp/proxy/srv_1"
FAILS = "max_fails=3 fail_timeout=1s"
OUT_FOR_LONG = (FAILS, "max_fails=3 fail_timeout=600s")
NEVER_OUT = (FAILS, "max_fails=0")
LARGE_HEAD = b"mcp-session-id: " + b"s" * (31 * 1024) + b"\r\n"
SAID = b"event: message\ndata: {}\n\n"


@dataclass
class Counting:
    """A server that has read each request before it does what it was told."""

    does: str = "answer"
    seen: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.partition(b":")[2])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                self.seen.append(f"{head.split(b' ')[0].decode()} {body.decode()}".strip())
                if self.does == "hang up":
                    return
                await self._answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        if self.does == "stream":
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"x-accel-buffering: yes\r\ntransfer-encoding: chunked\r\n\r\n"
                b"%x\r\n%b\r\n" % (len(SAID), SAID)
            )
            await writer.drain()
            await self.release.wait()
            writer.write(b"0\r\n\r\n")
        else:
            more = LARGE_HEAD if self.does == "answer at length" else b""
            writer.write(b"HTTP/1.1 200 OK\r\n" + more + b"content-length: 2\r\n\r\nok")
        await writer.drain()


@asynccontextmanager
async def counting(does: str = "answer") -> AsyncIterator[Counting]:
    made = Counting(does)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        made.release.set()
        server.close()


def client(nginx: Nginx) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=nginx.url, verify=nginx.context, timeout=60, trust_env=False)


async def test_a_gateway_that_nothing_reaches_costs_no_call(tmp_path: Path) -> None:
    async with (
        counting() as living,
        nginx_before(tmp_path / "nginx", (free_port(), living.port), free_port()) as nginx,
        client(nginx) as caller,
    ):
        names = [f"call {n}" for n in range(30)]
        answers = await asyncio.gather(*(caller.post(PROXY, content=name) for name in names))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "ok")}
    assert sorted(living.seen) == sorted(f"POST {name}" for name in names)


async def test_a_call_that_was_read_and_not_answered_is_told_and_never_sent_again(
    tmp_path: Path,
) -> None:
    async with (
        counting("hang up") as one,
        counting("hang up") as two,
        nginx_before(tmp_path / "nginx", (one.port, two.port), free_port(), NEVER_OUT) as nginx,
        client(nginx) as caller,
    ):
        for path in (PROXY, "/api/v1/mcp/emergency-stop"):
            answer = await caller.post(path, content=path)
            assert (answer.status_code, answer.headers["content-type"]) == (502, "application/json")
            assert "may have been" in answer.json()["error"]["message"]
        for method in ("PATCH", "POST"):
            await caller.request(method, PROXY, content="once")
        seen = sorted([*one.seen, *two.seen])
        assert seen == sorted(
            [f"POST {PROXY}", "POST /api/v1/mcp/emergency-stop", "PATCH once", "POST once"]
        )
        # Asking again changes nothing (RFC 9110, section 9.2.2).
        for method in ("GET", "DELETE"):
            await caller.request(method, PROXY)
            assert [named for named in (*one.seen, *two.seen) if named == method] == [method] * 2


async def test_a_gateway_that_breaks_off_is_left_out(tmp_path: Path) -> None:
    async with (
        counting("hang up") as broken,
        counting() as living,
        nginx_before(
            tmp_path / "nginx", (broken.port, living.port), free_port(), OUT_FOR_LONG
        ) as nginx,
        client(nginx) as caller,
    ):
        codes = [(await caller.post(PROXY, content=f"call {n}")).status_code for n in range(30)]
    assert codes.count(502) == len(broken.seen) == 3
    assert codes.count(200) == len(living.seen) == 27


async def test_what_an_mcp_server_sends_takes_no_gateway_out(tmp_path: Path) -> None:
    async with (
        counting("answer at length") as one,
        nginx_before(tmp_path / "nginx", (one.port,), free_port()) as nginx,
        client(nginx) as caller,
    ):
        answer = await caller.post(PROXY, content="call")
        assert (answer.status_code, len(answer.headers["mcp-session-id"])) == (200, 31 * 1024)
        one.does = "stream"
        async with caller.stream("POST", PROXY, content="call") as answer:
            # It has not ended, and its server has asked for it to be kept back.
            assert await anext(answer.aiter_bytes()) == SAID
            one.release.set()


async def test_what_nginx_says_itself_can_be_read_by_an_mcp_client(tmp_path: Path) -> None:
    gateways = (free_port(), free_port())
    async with (
        nginx_before(tmp_path / "nginx", gateways, free_port()) as nginx,
        client(nginx) as caller,
    ):
        answer = await caller.post(PROXY, content="call")
        assert answer.status_code == 502
        assert answer.json()["jsonrpc"] == "2.0"
        assert answer.json()["error"]["code"] == -31010
        other = (await caller.post("/api/v1/keys", content="{}")).json()["error"]
    assert (other["code"], other["details"]) == ("unanswered", [])


async def test_calls_are_spread_and_people_stay_where_they_are(tmp_path: Path) -> None:
    async with (
        counting() as one,
        counting() as two,
        nginx_before(tmp_path / "nginx", (one.port, two.port), free_port()) as nginx,
        client(nginx) as caller,
    ):
        for path in (PROXY, "/api/v1/webhooks/ingest", "/access/v1/evaluation"):
            for _ in range(4):
                await caller.post(path, content=path)
            assert one.seen.count(f"POST {path}") == two.seen.count(f"POST {path}") == 2
        for person in ("Ann", "Bob", "Cid"):
            for path in ("/api/v1/keys", "/dashboard/", "/api/v1/mcp/servers"):
                await caller.post(path, content=person, headers={"Authorization": person})
            at = [gateway.seen.count(f"POST {person}") for gateway in (one, two)]
            assert sorted(at) == [0, 3]
