"""What is published about the API is what it does; health needs no key."""

import re
from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette

from gateway.api.routes import BASE, ROUTES, management_routes, specification
from tests.api.world import PUBLIC_URL, World

pytestmark = pytest.mark.anyio


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if "$ref" in node else set()
        return found.union(*map(_references, node.values()))
    return set[str]().union(*map(_references, node)) if isinstance(node, list) else set()


def test_the_document_names_every_route_once_and_refers_to_what_it_holds() -> None:
    document = orjson.loads(specification())
    assert document["openapi"] == "3.1.0"
    described = {
        (method.upper(), path.removeprefix(BASE))
        for path, methods in document["paths"].items()
        for method in methods
        if "security" not in methods[method]
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len(described) == len(ROUTES)
    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    names = [operation["operationId"] for operation in operations if "operationId" in operation]
    assert len(names) == len(set(names)) == len(ROUTES)
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    for operation in operations:
        if "operationId" in operation:
            assert {"401", "403", "503"} <= operation["responses"].keys()


def test_every_parameter_in_a_path_is_described() -> None:
    document = orjson.loads(specification())
    for path, methods in document["paths"].items():
        for operation in methods.values():
            described = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert described == set(re.findall(r"\{(\w+)\}", path))


def test_writes_and_nothing_else_offer_to_be_remembered() -> None:
    offering = {
        f"{method.upper()} {path.removeprefix(BASE)}"
        for path, methods in orjson.loads(specification())["paths"].items()
        for method, operation in methods.items()
        if any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", ()))
    }
    writes = {f"{route.method} {route.path}" for route in ROUTES if route.method != "GET"}
    platforms = {f"{route.method} {route.path}" for route in ROUTES if route.door is not None}
    questions = {"POST /mcp/decide", "POST /policy/replay", "POST /evidence"}
    assert offering == writes - platforms - questions


def test_the_greetings_of_platforms_are_described() -> None:
    paths = orjson.loads(specification())["paths"]
    for name, media_type in (("graph", "text/plain"), ("purview", "application/json")):
        answers = paths[f"{BASE}/extensions/{{id}}/{name}"]["post"]["responses"]
        assert list(answers["200"]["content"]) == [media_type]
        assert "202" in answers


async def test_the_document_and_health_need_no_key(world: World) -> None:
    async with world.client(None) as client:
        for path in ("openapi.json", "healthz", "readyz"):
            assert (await client.get(f"{PUBLIC_URL}/{path}")).status_code == 200
        world.upstream.ready = False
        answer = await client.get(f"{PUBLIC_URL}/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})


async def test_only_the_management_listener_says_what_is_not_ready(world: World) -> None:
    world.upstream.ready = False
    app = Starlette(routes=management_routes(world.context))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.get("readyz")
    assert (answer.status_code, answer.json()["checks"]) == (503, {"opa": "down"})


OBVIOUS = {
    *("arguments", "description", "enabled", "name", "owner", "password", "reason", "role"),
    *("auth", "kind", "scope", "template", "tool", "type", "version"),
    # As in the filters of the lists.
    *("agent_id", "decision", "from", "risk", "server_id", "time_range", "to"),
}


def test_each_field_that_somebody_sends_says_what_it_is() -> None:
    """Forms show it below the field, too."""
    silent = {
        f"{route.method} {route.path}: {name}"
        for route in ROUTES
        if route.body is not None and route.base == BASE and route.door is None
        for name, schema in route.body.model_json_schema().get("properties", {}).items()
        if name not in OBVIOUS
        and not any("description" in one for one in (schema, *schema.get("anyOf", ())))
    }
    assert silent == set()
