"""Every page, whoever asks for it: signed in or not, of which role, with whose form."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete

from gateway.dashboard import names
from gateway.dashboard.routes import PAGES
from gateway.registry.users import UserRole
from gateway.store import tables
from tests.dashboard.site import Site, a_site, add, csrf_of

pytestmark = pytest.mark.anyio

READ = sorted({page.path for page in PAGES if page.method == "GET"})
WRITTEN = sorted({page.path for page in PAGES if page.method == "POST"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    with a_site(folder) as found:
        yield found


def address(path: str) -> str:
    return "/dashboard" + re.sub(r"\{\w+\}", "unknown_1", path)


async def test_nobody_sees_or_does_anything_without_signing_in(site: Site) -> None:
    async with site.browser() as client:
        for path in READ:
            away = await client.get(address(path))
            assert away.status_code == 303, path
            assert away.headers["location"].startswith("/dashboard/sign-in"), path
        for path in WRITTEN:
            away = await client.post(address(path), data={"csrf": "x"})
            assert away.headers["location"] == "/dashboard/sign-in", path
        assert (await client.get("/dashboard/live")).status_code == 204


async def test_no_form_counts_without_the_sessions_token(site: Site) -> None:
    async with site.person("admin") as client:
        for path in WRITTEN:
            for form in ({"reason": "x"}, {"csrf": "guess"}):
                assert (await client.post(address(path), data=form)).status_code == 403, path


@pytest.mark.parametrize("role", ["admin", "approver", "auditor"])
async def test_no_page_fails_for_any_role(site: Site, role: UserRole) -> None:
    async with site.person(role) as client:
        for path in READ:
            status = (await client.get(address(path))).status_code
            assert status in (200, 303, 403, 404), (path, status)


@pytest.mark.parametrize("role", ["approver", "auditor"])
async def test_who_may_not_change_things_changes_nothing(site: Site, role: UserRole) -> None:
    decide = {"/stops/new", "/approvals/{id}/approve", "/approvals/{id}/deny"}
    may = decide if role == "approver" else {"/evidence"}
    async with site.person(role) as client:
        before = site.world.state.registry.changes
        token = csrf_of(await client.get("/dashboard/approvals"))
        for path in WRITTEN:
            if path in may:
                continue
            answer = await client.post(address(path), data={"csrf": token, "typed_name": "x"})
            assert answer.status_code in (303, 400, 403, 404), path
        assert site.world.state.registry.changes == before


async def test_a_session_that_ended_meanwhile_changes_nothing(site: Site) -> None:
    async with site.person("admin") as client:
        token = csrf_of(await client.get("/dashboard/agents/new"))
        site.world.state.writer.change_now(
            lambda connection: connection.execute(delete(tables.user_sessions)).rowcount
        )
        form = {"csrf": token, "name": "late", "owner": "x"}
        answer = await client.post("/dashboard/agents/new", data=form)
        assert answer.headers["location"] == "/dashboard/sign-in"


async def test_a_change_stands_in_the_trace_with_the_persons_name(site: Site) -> None:
    async with site.person("admin") as client:
        token = csrf_of(await client.get("/dashboard/agents/new"))
        form = {"csrf": token, "name": "by-hand", "owner": "Kim"}
        made = await client.post("/dashboard/agents/new", data=form)
        assert made.headers["location"] == "/dashboard/agents"
        listed = await client.get("/dashboard/traces?kind=event")
        found = re.search(r'/dashboard/traces/(evt_\w+)"[^>]*>agent\.created', listed.text)
        assert found is not None
        event = await client.get(f"/dashboard/traces/{found[1]}")
        assert "Alma" in event.text


async def test_a_person_is_removed_by_typing_their_name(site: Site) -> None:
    add(site.world, "auditor", "Gone", "hash")
    async with site.person("admin") as client:
        people = await client.get("/dashboard/people")
        [path] = re.findall(r'href="([^"]+/remove)" aria-label="Remove Gone"', people.text)
        asked = await client.get(path)
        assert "<code>Gone</code>" in asked.text
        form = {"csrf": csrf_of(asked), "typed_name": "gone"}
        refused = await client.post(path, data=form)
        assert (refused.status_code, "nothing was changed" in refused.text) == (400, True)
        assert "Gone" in (await client.get("/dashboard/people")).text
        removed = await client.post(path, data=form | {"typed_name": "Gone"})
        assert removed.headers["location"] == "/dashboard/people"
        assert "Remove Gone" not in (await client.get("/dashboard/people")).text


async def test_what_is_too_long_to_choose_from_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.person("auditor") as client:
        assert '<select class="form-select" id="w-agent_id"' in await traces(client)
        monkeypatch.setattr(names, "MOST_DRAWN", -1)
        page = await traces(client)
        assert '<input class="form-control" id="w-agent_id" name="agent_id"' in page
        assert 'value="agt_1"' in page


async def traces(client: httpx.AsyncClient) -> str:
    answer = await client.get("/dashboard/traces", params={"agent_id": "agt_1"})
    assert answer.status_code == 200
    return answer.text


async def test_a_server_says_how_the_consent_to_its_use_stands(site: Site) -> None:
    auth = {
        "type": "oauth_authorization_code",
        "authorization_url": "https://login.example.com/authorize",
        "token_url": "https://login.example.com/token",
        "client_id": "gateway",
    }
    new = {"name": "consented", "server_url": "https://mcp.example.com/mcp", "auth": auth}
    async with site.world.client() as admin:
        made = await admin.post("mcp/servers", json=new)
        assert made.status_code == 201, made.text
        server = made.json()["id"]
        async with site.person("auditor") as client:
            page = await client.get(f"/dashboard/servers/{server}")
            assert (page.status_code, "nobody was asked yet" in page.text) == (200, True)
            asked = await admin.post(f"mcp/servers/{server}/consent")
            assert asked.status_code == 200, asked.text
            page = await client.get(f"/dashboard/servers/{server}")
            assert "<dt>Consent</dt>" in page.text
            assert "nobody was asked yet" not in page.text
