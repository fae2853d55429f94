"""An administrator consents once; the browser's way back counts once; nothing secret is shown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import select, update

from gateway.clock import after
from gateway.mcp.tokens import NoToken, Tokens
from gateway.store import tables
from gateway.values import Role, Server, ServerId
from tests import places
from tests.api.world import PUBLIC_URL, World
from tests.authorization_server import CLIENT, SECRET, AuthorizationServer, authorization_server
from tests.mcp.builders import PRIVATE

pytestmark = pytest.mark.anyio


@dataclass
class Consenting:
    world: World
    there: AuthorizationServer
    tokens: Tokens
    api: httpx.AsyncClient
    server_id: str

    @property
    def server(self) -> Server:
        return self.world.state.directory.view(self.world.project_id).servers[
            ServerId(self.server_id)
        ]

    async def ask(self) -> str:
        answer = await self.api.post(f"mcp/servers/{self.server_id}/consent")
        assert answer.status_code == 200, answer.text
        url: str = answer.json()["authorization_url"]
        return url

    async def consent(self, url: str) -> httpx.Response:
        """Do what a browser does: be sent to the authorization server, and be sent back."""
        return await self.come_back(await self.sent_back(url))

    async def sent_back(self, url: str) -> str:
        async with httpx.AsyncClient() as browser:
            there = await browser.get(url)
        return there.headers["location"]

    async def come_back(self, url: str) -> httpx.Response:
        async with self.world.client(None) as browser:
            return await browser.get(url)

    async def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = (
            await self.api.get(f"mcp/servers/{self.server_id}/consent")
        ).json()
        return answer


@asynccontextmanager
async def consenting(world: World, **auth: Any) -> AsyncIterator[Consenting]:
    async with authorization_server() as there:
        tokens = Tokens(world.state.registry, private_allowed=PRIVATE, patience=0.0)

        world.context = replace(world.context, redeem=tokens.redeem)
        async with world.client() as api:
            given = {
                "type": "oauth_authorization_code",
                "authorization_url": f"{there.url}/authorize",
                "token_url": f"{there.url}/token",
                "client_id": CLIENT,
                "client_secret": SECRET,
                "scope": "mcp:tools",
            } | auth
            made = await api.post(
                "mcp/servers",
                json={
                    "name": "CRM",
                    "server_url": "https://crm.example.com/mcp",
                    "auth": given,
                    "allow_private_network": True,
                },
            )
            assert made.status_code == 201, made.text
            yield Consenting(world, there, tokens, api, made.json()["id"])


async def test_a_consent_with_pkce_gives_a_token_and_the_server_is_approved_anew(
    world: World,
) -> None:
    async with consenting(world) as it:
        with pytest.raises(NoToken, match="no administrator has consented"):
            await it.tokens.header(it.server)
        before = it.server
        url = await it.ask()
        query = parse_qs(urlsplit(url).query)
        assert query["redirect_uri"] == [f"{PUBLIC_URL}/api/v1/mcp/oauth/callback"]
        assert query["resource"] == ["https://crm.example.com/mcp"]
        assert query["scope"] == ["mcp:tools"]
        assert (await it.state())["state"] == "PENDING"
        page = await it.consent(url)
        assert page.status_code == 200
        assert page.headers["cache-control"] == "no-store"
        assert it.there.forms[0]["resource"] == "https://crm.example.com/mcp"
        shown = await it.state()
        assert (shown["state"], shown["scope"]) == ("GRANTED", "mcp:tools")
        assert shown["expires_at"] > world.state.clock.now()
        assert (it.server.status, it.server.revision) == ("PENDING_APPROVAL", before.revision + 1)
        assert world.events()[-2:] == ["server.consent_asked", "server.consented"]
        assert await it.tokens.header(it.server) == ((b"authorization", b"Bearer access-2"),)
        # Nothing but the code was redeemed: the token came with it.
        assert [form["grant_type"] for form in it.there.forms] == ["authorization_code"]


async def test_a_token_is_renewed_and_its_new_refresh_token_outlives_the_process(
    world: World,
) -> None:
    async with consenting(world) as it:
        it.there.seconds = 1
        await it.consent(await it.ask())
        for number in (3, 4):
            # As after a restart: nothing is known but what was stored, and that has ended.
            world.state.writer.change_now(
                lambda c: (
                    c.execute(
                        update(tables.consents).values(
                            expires_at=after(world.state.clock.now(), -1)
                        )
                    ).rowcount
                )
            )
            fresh = Tokens(world.state.registry, private_allowed=PRIVATE)
            header = await fresh.header(it.server)
            assert header == ((b"authorization", f"Bearer access-{number}".encode()),)
        sent = [form.get("refresh_token") for form in it.there.forms]
        assert sent == [None, "refresh-2", "refresh-3"]
        assert it.there.forms[-1]["resource"] == "https://crm.example.com/mcp"


async def test_a_consent_that_is_withdrawn_is_shown_as_lost(world: World) -> None:
    async with consenting(world) as it:
        await it.consent(await it.ask())
        it.there.withdrawn = True
        await it.tokens.header(it.server)
        it.tokens.refused(it.server)
        with pytest.raises(NoToken, match="invalid_grant"):
            await it.tokens.header(it.server)
        assert (await it.state())["state"] == "LOST"
        assert world.events()[-1] == "server.consent_lost"
        with pytest.raises(NoToken, match="no administrator has consented"):
            await it.tokens.header(it.server)
        it.there.withdrawn = False
        assert (await it.consent(await it.ask())).status_code == 200
        assert (await it.state())["state"] == "GRANTED"


async def test_what_the_browser_brings_counts_once_and_for_ten_minutes(world: World) -> None:
    async with consenting(world) as it:
        back = await it.sent_back(await it.ask())
        assert (await it.come_back(back)).status_code == 200
        again = await it.come_back(back)
        assert again.status_code == 400
        forged = await it.come_back(back.replace("state=", "state=x"))
        assert forged.status_code == 400
        late = await it.sent_back(await it.ask())
        world.state.writer.change_now(
            lambda c: (
                c.execute(
                    update(tables.consents).values(asked_until=after(world.state.clock.now(), -1))
                ).rowcount
            )
        )
        assert (await it.come_back(late)).status_code == 400
        assert len(it.there.forms) == 1


async def test_a_newer_question_makes_the_older_one_void(world: World) -> None:
    async with consenting(world) as it:
        first = await it.sent_back(await it.ask())
        second = await it.sent_back(await it.ask())
        assert (await it.come_back(first)).status_code == 400
        assert (await it.come_back(second)).status_code == 200


async def test_a_code_without_its_verifier_is_worth_nothing(world: World) -> None:
    async with consenting(world) as it:
        stolen = parse_qs(urlsplit(await it.sent_back(await it.ask())).query)["code"][0]
        mine = await it.sent_back(await it.ask())
        code = parse_qs(urlsplit(mine).query)["code"][0]
        answer = await it.come_back(mine.replace(code, stolen))
        assert answer.status_code == 400
        assert (await it.state())["state"] == "PENDING"


async def test_a_refused_consent_and_another_issuer_change_nothing(world: World) -> None:
    async with consenting(world, issuer="https://login.example.com/") as it:
        assert (await it.consent(await it.ask())).status_code == 400
        it.there.consents = False
        assert (await it.consent(await it.ask())).status_code == 400
        assert it.there.forms == []
        assert (await it.state())["state"] == "PENDING"


async def test_a_key_that_was_revoked_meanwhile_consents_to_nothing(world: World) -> None:
    async with consenting(world) as it:
        back = await it.sent_back(await it.ask())
        world.state.writer.change_now(
            lambda c: (
                c.execute(
                    update(tables.keys).where(tables.keys.c.role == "admin").values(state="REVOKED")
                ).rowcount
            )
        )
        assert (await it.come_back(back)).status_code == 400


async def test_another_address_or_credential_forgets_the_consent(world: World) -> None:
    async with consenting(world) as it:
        await it.consent(await it.ask())
        await it.api.patch(
            f"mcp/servers/{it.server_id}", json={"server_url": "https://other.example.com/"}
        )
        with pytest.raises(NoToken, match="no administrator"):
            await it.tokens.header(it.server)
        assert (await it.api.get(f"mcp/servers/{it.server_id}/consent")).status_code == 409


async def test_only_administrators_ask_and_only_for_servers_that_need_it(world: World) -> None:
    async with consenting(world) as it:
        for role in (Role.AUDITOR, Role.APPROVER, Role.PROJECT):
            async with world.client(role) as other:
                answer = await other.post(f"mcp/servers/{it.server_id}/consent")
                assert answer.status_code == 403
        async with world.client(world.foreign) as other:
            answer = await other.post(f"mcp/servers/{it.server_id}/consent")
            assert answer.status_code == 404
        plain = await it.api.post(
            "mcp/servers", json={"name": "x", "server_url": "https://x.example.com/"}
        )
        answer = await it.api.post(f"mcp/servers/{plain.json()['id']}/consent")
        assert answer.status_code == 409
        assert (await it.api.delete(f"mcp/servers/{it.server_id}")).status_code == 204


async def test_secrets_and_tokens_are_only_stored_encrypted_and_never_answered(
    world: World,
) -> None:
    async with consenting(world) as it:
        await it.consent(await it.ask())
        answers = [
            (await it.api.get(path)).text
            for path in (
                "mcp/servers",
                f"mcp/servers/{it.server_id}",
                f"mcp/servers/{it.server_id}/consent",
                "traces",
            )
        ]
        trace = world.state.registry.read_now(
            lambda c: [bytes(row.body) for row in c.execute(select(tables.trace))]
        )
        stored = places.stored(world.state.data_dir)
    for secret in (SECRET, "access-2", "refresh-2"):
        assert not [text for text in answers if secret in text]
        assert not [raw for raw in (*trace, stored) if secret.encode() in raw]
