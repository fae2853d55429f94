"""Whatever somebody changes over the API is in the log: what it was, of what, by whom and why."""

from typing import Any

import pytest

from gateway.api.endpoint import Route
from gateway.api.routes import BASE, ROUTES
from gateway.values import Role
from tests.api.test_roles import BODIES, MAKE, _made, _named
from tests.api.world import PUBLIC_URL, World

pytestmark = pytest.mark.anyio

EVENTS = {
    "POST /mcp/servers": "server.registered",
    "POST /mcp/servers/from-template": "server.registered",
    "PATCH /mcp/servers/{id}": "server.changed",
    "DELETE /mcp/servers/{id}": "server.removed",
    "POST /mcp/servers/{id}/scan": "server.scanned",
    "PATCH /mcp/tools/{id}": "tool.risk_overridden",
    "POST /mcp/policies": "rule.created",
    "PATCH /mcp/policies/{id}": "rule.changed",
    "DELETE /mcp/policies/{id}": "rule.removed",
    "POST /proposals/{id}/reject": "proposal.rejected",
    "POST /mcp/emergency-stop": "stop.raised",
    "POST /mcp/emergency-stop/{id}/lift": "stop.lifted",
    "POST /agents": "agent.created",
    "PATCH /agents/{id}": "agent.changed",
    "POST /agents/{id}/pause": "agent.pause",
    "POST /agents/{id}/suspend": "agent.suspend",
    "POST /agents/{id}/revoke": "agent.revoke",
    "POST /keys": "key.created",
    "DELETE /keys/{id}": "key.revoked",
    "POST /keys/{id}/rotate": "key.rotated",
    "POST /users": "user.created",
    "PATCH /users/{id}": "user.changed",
    "DELETE /users/{id}": "user.removed",
    "POST /budgets": "budget.created",
    "PATCH /budgets/{id}": "budget.changed",
    "DELETE /budgets/{id}": "budget.removed",
    "POST /approvals/{id}/approve": "approval.approved",
    "POST /approvals/{id}/deny": "approval.denied",
    "POST /notifications": "notification.created",
    "DELETE /notifications/{id}": "notification.removed",
    "POST /extensions": "extension.created",
    "DELETE /extensions/{id}": "extension.removed",
    "POST /extensions/{id}/rotate": "extension.rotated",
    "DELETE /traces/{id}/payload": "payload.erased",
    "PATCH /projects/current": "project.changed",
}
OWN = {
    "POST /mcp/servers/from-template": {"template": "salesforce"},
    "PATCH /projects/current": {"name": "Two"},
}
ELSEWHERE = {
    "POST /mcp/servers/{id}/template-version": "test_templates",
    "POST /mcp/servers/{id}/consent": "test_consents",
    "POST /mcp/servers/{id}/overrides": "test_overrides",
    "DELETE /mcp/servers/{id}/overrides/{override_id}": "test_overrides",
    "POST /mcp/tools/{id}/accept": "test_servers",
    "POST /proposals/{id}/confirm": "test_weakening",
    "POST /agents/{id}/resume": "test_agents",
}
"""What needs more than one thing that was made before; there, too, its event is looked for."""
WRITES = {
    _named(route): route
    for route in ROUTES
    if route.writes and route.method != "GET" and route.base == BASE and route.door is None
}


def test_each_route_that_changes_something_has_its_event() -> None:
    assert WRITES.keys() == EVENTS.keys() | ELSEWHERE.keys()


def _body(name: str, route: Route) -> Any:
    noun = route.path.removeprefix("/mcp").split("/")[1]
    if name in OWN:
        return OWN[name]
    if "{" in route.path:
        return BODIES.get(name)
    made = dict(MAKE[noun][1])
    return made | ({"name": "fresh"} if "name" in made else {})


@pytest.mark.parametrize("name", EVENTS)
async def test_what_somebody_changes_is_in_the_log(world: World, name: str) -> None:
    route = WRITES[name]
    role = Role.APPROVER if Role.APPROVER in route.roles else Role.ADMIN
    noun = route.path.removeprefix("/mcp").split("/")[1]
    row_id = await _made(world, world.keys[Role.ADMIN], noun) if "{" in route.path else ""
    body = _body(name, route)
    path = PUBLIC_URL + route.base + route.path.replace("{id}", row_id)
    async with world.client(role) as client:
        answer = await client.request(route.method, path, json=body)
        assert answer.is_success, answer.text
    key = world.state.directory.key_of(world.keys[role])
    assert key is not None
    async with world.client(Role.AUDITOR) as auditor:
        [item] = (await auditor.get("traces?kind=event&limit=1")).json()["items"]
        [told] = (await auditor.get(f"traces/{item['id']}")).json()["records"]
    record, why = told["record"], {n: one["value"] for n, one in told["payloads"].items()}
    assert (record["event"], record["actor"]) == (EVENTS[name], key.id)
    assert why["by"] == key.owner
    if row_id:
        assert record["subject"] == row_id
    if route.method == "PATCH":
        assert why.keys() >= ({"reason"} if "reason" in (body or {}) else {"before"})
    if "reason" in (body or {}):
        assert why["reason"] == (body or {})["reason"]
