"""Every route against every role, and against ids of another project, from the one table."""

import re
from typing import Any

import httpx
import pytest

from gateway.api import consents
from gateway.api.endpoint import Route
from gateway.api.routes import BASE, ROUTES, routes
from gateway.ids import new_id
from gateway.values import Role
from tests.api.world import PUBLIC_URL, World

pytestmark = pytest.mark.anyio


def _named(route: Route) -> str:
    return f"{route.method} {route.path}"


def _filled(route: Route, row_id: str = "srv_0") -> str:
    return PUBLIC_URL + route.base + re.sub(r"\{\w+\}", row_id, route.path)


async def _send(client: httpx.AsyncClient, route: Route, row_id: str = "srv_0") -> httpx.Response:
    json: dict[str, str] | None = {} if route.body is not None else None
    return await client.request(route.method, _filled(route, row_id), json=json)


async def test_a_role_that_the_table_does_not_name_is_refused_everywhere(world: World) -> None:
    for role in Role:
        async with world.client(role) as client:
            for route in ROUTES:
                status = (await _send(client, route)).status_code
                assert (status == 403) == (role not in route.roles), (role, _named(route), status)


async def test_no_route_answers_without_a_living_key(world: World) -> None:
    for key in (None, "gwa_unknown", ""):
        async with world.client(key) as client:
            for route in ROUTES:
                answer = await _send(client, route)
                assert answer.status_code == 401, _named(route)
                assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="mcp-gateway"')


async def test_what_answers_without_a_key_is_a_short_list(world: World) -> None:
    in_the_table = {route.base + route.path for route in ROUTES}
    others = {route.path for route in routes(world.context)} - in_the_table
    assert others == {
        BASE + consents.CALLBACK,
        "/openapi.json",
        "/.well-known/{rest:path}",
        "/healthz",
        "/readyz",
    }


BODIES = {
    "DELETE /traces/{id}/payload": {"reason": "asked by the person"},
    "PATCH /mcp/servers/{id}": {"name": "x"},
    "POST /mcp/servers/{id}/overrides": {
        "policy_id": "sf-record-delete",
        "action": "DENY",
        "reason": "x",
        "expires_at": "2099-01-01T00:00:00Z",
    },
    "POST /mcp/servers/{id}/template-version": {"version": "1.0.0", "reason": "x"},
    "PATCH /mcp/tools/{id}": {"risk_override": "LOW", "reason": "x"},
    "POST /mcp/tools/{id}/accept": {"definition_sha256": "0" * 64, "reason": "x"},
    "PATCH /mcp/policies/{id}": {"enabled": False},
    "POST /mcp/emergency-stop/{id}/lift": {"reason": "x"},
    "PATCH /agents/{id}": {"owner": "x"},
    "PATCH /users/{id}": {"role": "auditor"},
    "PATCH /budgets/{id}": {"limit": 1},
    "POST /proposals/{id}/confirm": {"reason": "x"},
    "POST /proposals/{id}/reject": {"reason": "x"},
    "POST /approvals/{id}/approve": {"reason": "x"},
    "POST /approvals/{id}/deny": {"reason": "x"},
}
MAKE: dict[str, tuple[str, dict[str, Any]]] = {
    "servers": ("mcp/servers", {"name": "crm", "server_url": "https://crm.example.com/mcp"}),
    "policies": ("mcp/policies", {"action": "DENY"}),
    "emergency-stop": ("mcp/emergency-stop", {"scope": "all", "reason": "x"}),
    "agents": ("agents", {"name": "a", "owner": "o"}),
    "keys": ("keys", {"role": "auditor", "name": "k", "owner": "o"}),
    "users": ("users", {"name": "Robin", "role": "approver"}),
    "budgets": ("budgets", {"scope": "project", "window": "day", "limit": 5}),
    "notifications": (
        "notifications",
        {"name": "n", "kind": "webhook", "url": "https://hooks.example.com/"},
    ),
    "extensions": ("extensions", {"name": "e", "type": "custom", "scopes": ["decide"]}),
}


async def _made(world: World, admin: str, noun: str) -> str:
    """The id of a new thing of the administrator's project."""
    async with world.client(admin) as client:
        if noun == "approvals":
            return world.approval(admin)
        if noun == "proposals":
            for weakening in ("second_person", "allowed"):
                await client.patch("projects/current", json={"weakening": weakening})
            return str((await client.get("proposals")).json()["items"][0]["id"])
        if noun == "traces":
            return str((await client.get("traces")).json()["items"][0]["id"])
        if noun == "tools":
            server = (await client.post("mcp/servers", json=MAKE["servers"][1])).json()["id"]
            await client.post(f"mcp/servers/{server}/scan")
            return str((await client.get(f"mcp/servers/{server}/tools")).json()["items"][0]["id"])
        path, body = MAKE[noun]
        named = {"name": new_id(noun[:3])} if "name" in body else {}
        made = await client.post(path, json=body | named)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])


# Templates, bundles and anchors are of the installation, not of a project.
_WITHOUT_PROJECT = ("/mcp/templates", "/policy/", "/anchors/")
_WITH_IDS = [
    r
    for r in ROUTES
    if "{" in r.path and not r.path.startswith(_WITHOUT_PROJECT) and r.door is None
]


@pytest.mark.parametrize("route", _WITH_IDS, ids=_named)
async def test_another_projects_id_answers_exactly_as_a_missing_one(
    world: World, route: Route
) -> None:
    noun = route.path.removeprefix("/mcp").split("/")[1]
    foreign_id = await _made(world, world.foreign, noun)
    missing_id = foreign_id[:-8] + "00000000"
    role = sorted(route.roles)[0]
    before = world.state.log.size
    answers = []
    async with world.client(role) as client:
        for row_id in (foreign_id, missing_id):
            path = _filled(route, row_id)
            answer = await client.request(route.method, path, json=BODIES.get(_named(route)))
            assert answer.status_code == 404, answer.text
            error = answer.json()["error"]
            error.pop("request_id")
            answers.append(error)
    assert answers[0] == answers[1]
    assert world.state.log.size == before


async def test_a_key_works_until_it_expires(world: World) -> None:
    soon = "2099-01-01T00:00:00Z"
    _, secret = world.key(Role.AUDITOR, expires_at=soon)
    async with world.client(secret) as client:
        assert (await client.get("agents")).status_code == 200
        world.state.clock.not_before("2099-01-01T00:00:00.000000Z")
        answer = await client.get("agents")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_cookies_and_queries_are_no_keys(world: World) -> None:
    secret = world.keys[Role.ADMIN]
    async with world.client(None) as client:
        for headers in ({"Cookie": f"key={secret}"}, {"Authorization": f"Basic {secret}"}):
            assert (await client.get("agents", headers=headers)).status_code == 401
        assert (await client.get("agents", params={"key": secret})).status_code == 401


async def test_a_key_is_dead_with_its_revoked_agent(world: World) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "a", "owner": "o"})).json()["id"]
        _, secret = world.key(agent_id=agent)
        approval = world.approval(secret)
        async with world.client(secret) as own:
            path = f"approvals/status?approval_id={approval}"
            assert (await own.get(path)).status_code == 200
            assert (await client.post(f"agents/{agent}/revoke")).status_code == 200
            assert (await own.get(path)).status_code == 401
        assert (await client.get(f"approvals/{approval}")).json()["status"] == "DENIED"
        assert (await client.post(f"agents/{agent}/resume")).status_code == 409
