"""Signing in at an identity provider: what is believed of its answers, and what is not."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.dashboard import external_sign_in
from gateway.registry import users
from gateway.registry.core import Actor
from gateway.registry.faults import Conflict
from gateway.registry.users import SignInRefused, UserPatch
from gateway.settings.oidc import OidcSettings
from gateway.store import tables
from gateway.values import Role
from tests.dashboard.provider import CLIENT, SECRET, Provider, a_provider
from tests.dashboard.site import Site, a_site, csrf_of

pytestmark = pytest.mark.anyio
START = "/dashboard/sign-in/oidc"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path) as found:
        yield found


@pytest.fixture
async def provider(site: Site, tmp_path: Path) -> AsyncIterator[Provider]:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    async with a_provider() as it:
        site.identity = OidcSettings.model_validate(
            {
                "oidc_issuer": it.issuer,
                "oidc_client_id": CLIENT,
                "oidc_client_secret_file": secret,
                "oidc_roles": "ops=admin, oncall=approver, audit=auditor",
                "oidc_project": "one",
            }
        )
        yield it


async def leave(client: httpx.AsyncClient, after: str = "") -> str:
    """Where the browser is sent."""
    left = await client.get(START, params={"next": after} if after else {})
    assert left.status_code == 303, left.text
    return left.headers["location"]


async def enter(client: httpx.AsyncClient, provider: Provider, after: str = "") -> httpx.Response:
    back = provider.visit(await leave(client, after))
    # From the provider's page, so no Origin of ours.
    return await client.get(f"{START}/back?{back}", headers={"Origin": "null"})


def rows(site: Site) -> list[Any]:
    found = select(tables.users).where(tables.users.c.external_id.is_not(None))
    with site.world.state.reader.connect() as connection:
        return list(connection.execute(found))


async def test_a_person_is_made_at_their_first_sign_in_and_found_at_the_next(
    site: Site, provider: Provider
) -> None:
    async with site.browser() as client:
        assert "/dashboard/sign-in/oidc?next=" in (await client.get("/dashboard/sign-in")).text
        entered = await enter(client, provider, "/dashboard/approvals")
        assert entered.headers["location"] == "/dashboard/approvals"
        home = await client.get("/dashboard/approvals")
        assert "grace" in home.text
        assert "approver" in home.text
        # Their password lies elsewhere.
        assert "/dashboard/password" not in home.text
        assert (await client.get("/dashboard/password")).status_code == 404
        await client.post("/dashboard/sign-out", data={"csrf": csrf_of(home)})
        # A name is that of the first sign-in: it stands beside what the person approved.
        provider.changes = {"preferred_username": "alma", "groups": "ops"}
        assert (await enter(client, provider)).headers["location"] == "/dashboard"
        people = await client.get("/dashboard/people")
        assert "signs in elsewhere" in people.text
    [row] = rows(site)
    assert (row.name, row.role, row.password_hash) == ("grace", "admin", "")
    assert row.external_id == f"{site.world.project_id} {provider.issuer} 248289"
    assert "code_verifier" in provider.redeemed[0]
    events = [e["event"] for e in site.world.line.world.records("event")]
    assert events.count("user.created") == len(("Alma", "Ada", "Aud", "grace"))
    assert events.count("session.opened") == 2


async def test_the_password_of_nobody_lets_an_external_person_in(
    site: Site, provider: Provider
) -> None:
    async with site.browser() as client:
        await enter(client, provider)
    registry = site.world.state.registry
    for guess in ("", "password"):
        with pytest.raises(SignInRefused):
            await users.authenticate(registry, "grace", guess)
    [row] = rows(site)
    by = Actor.operator(site.world.project_id)
    with pytest.raises(Conflict):
        registry.change_now(by, lambda ch: users.patch(ch, row.id, UserPatch(role="admin"), None))
    with pytest.raises(Conflict):
        registry.change_now(by, lambda ch: users.patch(ch, row.id, UserPatch(), "hash"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"nonce": "another"}, "another sign-in"),
        ({"nonce": None}, "MissingRequiredClaim"),
        ({"aud": "other"}, "InvalidAudience"),
        ({"aud": [CLIENT, "other"]}, "another client"),
        ({"azp": "other"}, "another client"),
        ({"iss": "https://evil.example"}, "InvalidIssuer"),
        ({"exp": 1_700_000_000}, "ExpiredSignature"),
        ({"exp": None}, "MissingRequiredClaim"),
        ({"iat": int(time.time()) + 10_000_000}, "ImmatureSignature"),
        ({"sub": None}, "MissingRequiredClaim"),
        ({"groups": ["staff"]}, "None of your groups"),
        ({"groups": {"ops": True}}, "None of your groups"),
        ({"groups": None}, "None of your groups"),
        ({"preferred_username": "ALMA"}, "A user of this name exists"),
        ({"preferred_username": "x" * 300}, "cannot be used"),
    ],
)
async def test_a_token_that_is_not_for_this_sign_in_is_refused(
    site: Site, provider: Provider, changes: dict[str, Any], why: str
) -> None:
    provider.changes = changes
    async with site.browser() as client:
        refused = await enter(client, provider)
        assert (refused.status_code, dict(client.cookies)) == (403, {})
        assert why in refused.text
    assert rows(site) == []


@pytest.mark.parametrize(
    "forged",
    [{"kid": "two"}, {"signer": "two"}, {"kid": "two", "signer": "two"}, {"algorithm": "HS256"}],
)
async def test_a_token_of_another_key_is_refused(
    site: Site, provider: Provider, forged: dict[str, str]
) -> None:
    for name, value in forged.items():
        setattr(provider, name, value)
    async with site.browser() as client:
        assert (await enter(client, provider)).status_code == 403
    assert rows(site) == []


async def test_an_answer_is_taken_once_and_from_the_browser_that_asked(
    site: Site, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.browser() as client, site.browser() as other:
        back = provider.visit(await leave(client))
        cookies = dict(client.cookies)
        refused = await other.get(f"{START}/back?{back}")
        assert refused.status_code == 403
        assert (await client.get(f"{START}/back?code=x&state=y")).status_code == 403
        client.cookies.update(cookies)
        assert (await client.get(f"{START}/back?{back}")).status_code == 303
        client.cookies.update(cookies)
        replayed = await client.get(f"{START}/back?{back}")
        assert "begin anew" in replayed.text
        assert len(provider.redeemed) == 1
        monkeypatch.setattr(external_sign_in, "ASKED_SECONDS", -1)
        late = provider.visit(await leave(other))
        assert (await other.get(f"{START}/back?{late}")).status_code == 403
        assert len(provider.redeemed) == 1


async def test_an_answer_of_another_provider_or_without_a_code_is_refused(
    site: Site, provider: Provider
) -> None:
    async with site.browser() as client:
        for more in ("&iss=https://evil.example", ""):
            back = provider.visit(await leave(client))
            query = back + more if more else back.replace("code=", "error=")
            assert (await client.get(f"{START}/back?{query}")).status_code == 403
    assert provider.redeemed == []


async def test_a_provider_that_calls_itself_otherwise_is_not_asked(
    site: Site, provider: Provider
) -> None:
    provider.named = "https://other.example"
    async with site.browser() as client:
        answer = await client.get(START)
        assert answer.status_code == 503
        assert "GATEWAY_OIDC_ISSUER" in answer.text
        site.wait = 2.0
        assert (await client.get(START)).status_code == 429


async def test_losing_a_role_ends_the_sessions_that_had_it(site: Site, provider: Provider) -> None:
    provider.changes = {"groups": ["ops"]}
    async with site.browser() as first, site.browser() as second:
        await enter(first, provider)
        assert (await first.get("/dashboard/people")).status_code == 200
        provider.changes = {"groups": ["audit"]}
        await enter(second, provider)
        assert (await first.get("/dashboard/people")).status_code == 303
    assert rows(site)[0].role == Role.AUDITOR


async def test_without_a_provider_there_is_no_way_to_one(site: Site) -> None:
    async with site.browser() as client:
        assert "oidc" not in (await client.get("/dashboard/sign-in")).text
        assert (await client.get(START)).status_code == 404


async def test_several_projects_need_one_that_is_named(site: Site, provider: Provider) -> None:
    assert site.identity is not None
    site.identity = site.identity.model_copy(update={"oidc_project": None})
    async with site.browser() as client:
        refused = await enter(client, provider)
    assert "GATEWAY_OIDC_PROJECT" in refused.text
    assert rows(site) == []
