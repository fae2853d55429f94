"""Signing in and out over HTTP: cookies, forms, headers."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.values import Role
from tests.dashboard.site import PASSWORD, Site, a_site, csrf_of, sign_in

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path) as found:
        yield found


async def test_a_person_signs_in_and_out(site: Site) -> None:
    async with site.browser() as client:
        away = await client.get("/dashboard")
        assert (away.status_code, away.headers["location"]) == (303, "/dashboard/sign-in")
        form = await client.get("/dashboard/sign-in")
        assert form.status_code == 200
        entered = await sign_in(client)
        assert (entered.status_code, entered.headers["location"]) == (303, "/dashboard")
        away = await client.get("/dashboard")
        assert away.headers["location"] == "/dashboard/approvals"
        home = await client.get("/dashboard/approvals")
        assert "Ada" in home.text
        stale = dict(client.cookies)
        left = await client.post("/dashboard/sign-out", data={"csrf": csrf_of(home)})
        assert left.headers["location"] == "/dashboard/sign-in"
        assert dict(client.cookies) == {}
        client.cookies.update(stale)
        assert (await client.get("/dashboard")).status_code == 303


async def test_a_cookie_is_for_this_host_and_no_script(site: Site) -> None:
    async with site.browser() as client:
        cookie = (await sign_in(client)).headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "secure", "path=/", "samesite=lax"} <= parts
    assert not any(part.startswith("domain") for part in parts)
    site.secure = False
    async with site.browser("http://127.0.0.1:8080") as client:
        cookie = (await sign_in(client)).headers["set-cookie"]
    assert cookie.startswith("session=")
    assert "secure" not in cookie.lower()


async def test_every_page_forbids_foreign_scripts_and_frames(site: Site) -> None:
    async with site.browser() as client:
        await sign_in(client)
        for path in ("/dashboard", "/dashboard/sign-in", "/dashboard/password", "/dashboard/none"):
            answer = await client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert not re.search(r"<script(?! src=)|<[^>]* on[a-z]+=", answer.text)
            assert answer.headers["cache-control"] == "no-store"


async def test_a_form_of_another_site_does_nothing(site: Site) -> None:
    async with site.browser() as client:
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
            form = {"name": "Ada", "password": PASSWORD}
            answer = await client.post("/dashboard/sign-in", data=form, headers=headers)
            assert (answer.status_code, client.cookies) == (403, httpx.Cookies())
        await sign_in(client)
        csrf = csrf_of(await client.get("/dashboard/approvals"))
        for form, headers in (
            ({"other": "x"}, {}),
            ({"csrf": "x"}, {}),
            ({"csrf": csrf}, {"Origin": "https://evil.example"}),
        ):
            answer = await client.post("/dashboard/sign-out", data=form, headers=headers)
            assert answer.status_code == 403
        assert (await client.get("/dashboard/approvals")).status_code == 200


async def test_a_wrong_password_opens_nothing_and_says_nothing(site: Site) -> None:
    async with site.browser() as client:
        wrong = await sign_in(client, password="wrong")
        unknown = await sign_in(client, name="Eve")
        assert wrong.status_code == unknown.status_code == 403
        assert wrong.text == unknown.text
        assert dict(client.cookies) == {}
        site.wait = 3.0
        assert (await sign_in(client)).status_code == 429


async def test_after_signing_in_a_person_is_where_they_wanted_to_be(site: Site) -> None:
    async with site.browser() as client:
        asked = await client.get("/dashboard/password")
        assert asked.headers["location"] == "/dashboard/sign-in?next=/dashboard/password"
        entered = await sign_in(client, next="/dashboard/password")
        assert entered.headers["location"] == "/dashboard/password"
        for elsewhere in ("https://evil.example", "//evil.example", "/dashboard//evil", "/api"):
            assert (await sign_in(client, next=elsewhere)).status_code == 400
            path = f"/dashboard/sign-in?next={elsewhere}"
            assert (await client.get(path)).status_code == 400


async def test_a_person_changes_their_password(site: Site) -> None:
    async with site.browser() as client:
        await sign_in(client)
        assert "/dashboard/password" in (await client.get("/dashboard/approvals")).text
        csrf = csrf_of(await client.get("/dashboard/password"))
        form = {"csrf": csrf, "old": PASSWORD, "new": "short"}
        assert (await client.post("/dashboard/password", data=form)).status_code == 400
        form["new"] = "another password"
        wrong = form | {"old": "wrong"}
        assert (await client.post("/dashboard/password", data=wrong)).status_code == 403
        changed = await client.post("/dashboard/password", data=form)
        assert changed.headers["location"] == "/dashboard/sign-in"
        assert (await client.get("/dashboard")).status_code == 303
        assert (await sign_in(client)).status_code == 403
        assert (await sign_in(client, password="another password")).status_code == 303


async def test_the_api_reads_no_cookie_of_a_person(site: Site) -> None:
    async with site.browser() as client:
        await sign_in(client)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    async with site.world.client(None) as api:
        assert (await api.get("approvals", headers={"Cookie": cookie})).status_code == 401
        key = site.world.keys[Role.ADMIN]
    async with site.browser() as client:
        bearer = {"Authorization": f"Bearer {key}"}
        assert (await client.get("/dashboard", headers=bearer)).status_code == 303
