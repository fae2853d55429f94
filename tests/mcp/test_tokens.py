"""Access tokens: got once for all who wait, renewed before they end, never shown to anybody."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.data_dir.state import State, open_state
from gateway.mcp import tokens as module
from gateway.mcp.scan import ScanFailed, scan
from gateway.mcp.tokens import NoToken, Tokens
from gateway.mcp.upstream import Upstreams
from gateway.oauth import OAuthClient
from gateway.values import Fate, Server
from tests.authorization_server import CLIENT, SECRET, AuthorizationServer, authorization_server
from tests.mcp.builders import HANDLES, PRIVATE, a_caller, a_permit, a_request, a_server, an_answer
from tests.places import place_of
from tests.raw_server import Peer, raw_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "data", create=True, place=place_of(tmp_path / "data")) as opened:
        yield opened


@asynccontextmanager
async def authority(state: State) -> AsyncIterator[tuple[AuthorizationServer, Tokens, Server]]:
    async with authorization_server() as there:
        oauth = OAuthClient(
            grant="client_credentials",
            token_url=f"{there.url}/token",
            client_id=CLIENT,
            client_secret=SECRET,
            client_auth="basic",
            scope="mcp:tools",
            resource="https://crm.example/mcp",
        )
        tokens = Tokens(state.registry, private_allowed=PRIVATE, patience=0.0)
        yield there, tokens, a_server(1, auth_headers=(), oauth=oauth)


async def test_a_token_is_asked_for_once_for_all_who_wait_and_then_kept(state: State) -> None:
    async with authority(state) as (there, tokens, server):
        there.gate = asyncio.Event()
        waiting = [asyncio.create_task(tokens.header(server)) for _ in range(20)]
        await there.asked.wait()
        there.gate.set()
        headers = {header for found in await asyncio.gather(*waiting) for header in found}
        assert headers == {(b"authorization", b"Bearer access-1")}
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-1"),)
        assert there.forms == [
            {
                "grant_type": "client_credentials",
                "scope": "mcp:tools",
                "resource": "https://crm.example/mcp",
            }
        ]
        pair = base64.b64decode(there.authorizations[0].removeprefix("Basic ")).decode()
        assert pair == "gateway%2Fclient:s3cret+of+the+client"


async def test_who_hangs_up_takes_the_token_from_nobody(state: State) -> None:
    async with authority(state) as (there, tokens, server):
        there.gate = asyncio.Event()
        first = asyncio.create_task(tokens.header(server))
        second = asyncio.create_task(tokens.header(server))
        await there.asked.wait()
        first.cancel()
        there.gate.set()
        assert await second == ((b"authorization", b"Bearer access-1"),)
        assert len(there.forms) == 1


async def test_a_token_is_renewed_while_it_still_holds(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    async with authority(state) as (there, tokens, server):
        tokens._seconds = 1e9  # the clock that the requests read is another one
        there.seconds = 100
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-1"),)
        now[0] += 79
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-1"),)
        await tokens.close()
        assert len(there.forms) == 1
        now[0] += 2
        # Nobody waits for the new one: the old one serves meanwhile.
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-1"),)
        await tokens.close()
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-2"),)
        now[0] += 1000
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-3"),)


async def test_another_credential_means_another_token(state: State) -> None:
    async with authority(state) as (there, tokens, server):
        assert await tokens.header(server) == ((b"authorization", b"Bearer access-1"),)
        assert server.oauth is not None
        post = replace(server.oauth, client_auth="post", scope="", resource="")
        again = replace(server, revision=2, oauth=post)
        assert await tokens.header(again) == ((b"authorization", b"Bearer access-2"),)
        assert there.authorizations[1] == ""
        assert there.forms[1] == {
            "grant_type": "client_credentials",
            "client_id": CLIENT,
            "client_secret": SECRET,
        }


async def test_a_token_that_the_server_refuses_is_replaced(state: State) -> None:
    async with authority(state) as (there, tokens, server):

        async def picky(peer: Peer) -> None:
            while True:
                request = await peer.request()
                good = b"Bearer access-2" in request
                status = "200 OK" if good else "401 Unauthorized"
                await peer.send(an_answer(b"{}", "WWW-Authenticate: Bearer x", status=status))

        async with raw_server(picky) as raw:
            ups = Upstreams(HANDLES, private_allowed=PRIVATE, tokens=tokens)
            mine = replace(server, url=f"http://127.0.0.1:{raw.port}/mcp")
            first = await ups.relay(a_caller(mine), a_request())
            assert (first.fate, first.reason) == (Fate.ANSWERED, "upstream_auth")
            second = await ups.relay(a_caller(mine), a_request())
            assert (second.status, second.body) == (200, b"{}")
            await ups.close()
        assert len(there.forms) == 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (JSONResponse({"error": "invalid_client", "error_description": SECRET}, 401), "401: inv"),
        (JSONResponse({"error": "no\nsuch\tcode"}, 400), r"\(400\)"),
        (PlainTextResponse("<html>", 502), "502 without"),
        (JSONResponse({"access_token": "a b", "token_type": "bearer"}), "no usable"),
        (JSONResponse({"access_token": "a\r\nX: y", "token_type": "bearer"}), "no usable"),
        (JSONResponse({"access_token": "a", "token_type": "mac"}), "no bearer"),
        (Response(b'{"access_token":"a","access_token":"b","token_type":"bearer"}'), "without"),
        (Response(b'{"a":"' + b"x" * 70_000 + b'"}'), "did not answer"),
    ],
)
async def test_what_is_no_token_is_refused_and_nothing_is_sent(
    state: State, answer: Response, why: str
) -> None:
    async with authority(state) as (there, tokens, server):
        there.answer = answer
        with pytest.raises(NoToken, match=why) as raised:
            await tokens.header(server)
        assert SECRET not in str(raised.value)
        ups = Upstreams(HANDLES, private_allowed=PRIVATE, tokens=tokens)
        forwarded = await ups.forward(a_permit(server, a_request()), lambda: None)
        assert (forwarded.fate, forwarded.reason) == (Fate.NOT_FORWARDED, "upstream_auth")
        with pytest.raises(ScanFailed, match="no access token"):
            await scan(ups, server)
        await ups.close()


async def test_a_failure_is_not_asked_for_again_at_once(state: State) -> None:
    async with authority(state) as (there, tokens, server):
        tokens._patience = 3600.0
        there.answer = JSONResponse({"error": "invalid_client"}, 401)
        for _ in range(3):
            with pytest.raises(NoToken, match="invalid_client"):
                await tokens.header(server)
        assert len(there.forms) == 1


async def test_the_authorization_server_is_reached_through_the_same_guard(state: State) -> None:
    async with authority(state) as (there, tokens, server):
        with pytest.raises(NoToken, match="may not be asked"):
            await tokens.header(replace(server, allow_private_network=False))
        assert server.oauth is not None
        metadata = replace(server.oauth, token_url="https://169.254.169.254/token")
        with pytest.raises(NoToken, match="may not be asked"):
            await tokens.header(replace(server, oauth=metadata))
        assert there.forms == []


async def test_no_secret_is_in_what_is_printed(
    state: State, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with authority(state) as (there, tokens, server):
        await tokens.header(server)
        there.answer = JSONResponse({"error": "x", "error_description": SECRET}, 400)
        with pytest.raises(NoToken):
            await tokens.header(replace(server, revision=2))
        printed = [repr(server), repr(tokens._held), caplog.text, *capsys.readouterr()]
    assert not [text for text in printed if SECRET in text or "access-1" in text]
