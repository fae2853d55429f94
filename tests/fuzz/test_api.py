"""The OpenAPI document against a gateway that runs: every operation, every role, what it allows."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import orjson
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.api.endpoint import Route
from gateway.api.routes import BASE, ROUTES, specification
from gateway.ids import new_id
from gateway.registry import extensions, projects
from gateway.registry.core import Actor
from gateway.registry.extensions import NewExtension
from gateway.registry.keys import NewKey, create
from gateway.registry.projects import NewProject
from gateway.values import ProjectId, Role
from tests import builders
from tests.api.test_roles import MAKE
from tests.api.world import SCOPES
from tests.builders import SECRET, a_body, a_state
from tests.end_to_end.demonstration import need_opa
from tests.gateway_process import GatewayProcess, a_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(7200)]

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2"))
"""Of each operation; `make fuzz` has many more."""
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_headers_conformance, response_schema_conformance, negative_data_rejection),
]
NEEDS_NO_KEY = {"/healthz", "/readyz", "/openapi.json"}
REFUSED = {401, 403, 404}


@dataclass(frozen=True)
class Site:
    """A gateway with things of every kind, and who may ask it."""

    url: str
    keys: dict[Role | None, str]
    ids: dict[str, list[str]]
    """By noun, of the keys' own project."""
    platform: str
    """The id of the extension that asks."""
    foreign: list[str]


@asynccontextmanager
async def a_site(folder: Path) -> AsyncIterator[Site]:
    keys: dict[Role | None, str] = {None: ""}
    with a_state(folder / "data") as world:
        own = ProjectId(builders.a_project().id)
        registry = world.state.registry
        for role in (Role.ADMIN, Role.APPROVER, Role.AUDITOR, Role.PROJECT):
            new = NewKey.model_validate({"role": role.value, "name": role.value, "owner": role})
            keys[role] = registry.change_now(Actor.operator(own), partial(create, new=new))[1]
        ours = NewExtension.model_validate({"name": "ours", "type": "custom", "scopes": SCOPES})
        platform, keys[Role.EXTENSION], _ = registry.change_now(
            Actor.operator(own), partial(extensions.create, new=ours)
        )
        first = NewKey(role="admin", name="first", owner="Alex")
        other = NewProject(name="Two", slug="two")
        foreign_admin = projects.create_now(registry, other, first)[2]
    async with a_gateway(folder / "data") as gateway:
        ids = await _things(gateway, keys[Role.ADMIN], own=True)
        # Those that ask stay: every role is to be heard to the end.
        ids["extensions"].remove(platform.id)
        foreign = await _things(gateway, foreign_admin, own=False)
        others = [one for found in foreign.values() for one in found]
        yield Site(gateway.base_url, keys, ids, platform.id, others)


async def _things(gateway: GatewayProcess, admin: str, *, own: bool) -> dict[str, list[str]]:
    """Make some of every kind; their ids, by noun."""
    headers = {"Authorization": f"Bearer {admin}"}
    base = gateway.base_url + BASE + "/"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
        for _, (path, body) in MAKE.items():
            given = body | ({"name": new_id("x")} if "name" in body else {})
            if path.endswith("emergency-stop"):
                continue
            assert (await client.post(path, json=given)).status_code == 201
        if own:
            await _approvals(client, gateway)
        made = await client.post("mcp/emergency-stop", json={"scope": "all", "reason": "x"})
        assert made.status_code == 201
        found: dict[str, list[str]] = {}
        for noun in (*MAKE, "approvals", "traces", "proposals"):
            path = MAKE[noun][0] if noun in MAKE else noun
            items = (await client.get(path)).json()["items"]
            found[noun] = [one["id"] for one in items]
        if own:
            tools = (await client.get("mcp/servers/srv_1/tools")).json()["items"]
            found["tools"] = [one["id"] for one in tools]
        found["keys"] = [one for one in found["keys"] if one == "key_1"]
    return found


async def _approvals(client: httpx.AsyncClient, gateway: GatewayProcess) -> None:
    rule = {"action": "REQUIRE_APPROVAL", "mcp_tool_id": "tol_1"}
    assert (await client.post("mcp/policies", json=rule)).status_code == 201
    for number in range(3):
        await client.post(
            gateway.proxy_url,
            content=a_body(arguments={"object": str(number)}),
            headers={"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"},
        )


def _route(operation: APIOperation[Any, Any, Any, Any]) -> Route | None:
    found = (operation.method.upper(), operation.path)
    return next((one for one in ROUTES if (one.method, one.base + one.path) == found), None)


@st.composite
def _cases(draw: st.DrawFn, operation: APIOperation[Any, Any, Any, Any], site: Site) -> Case[Any]:
    """What the document allows, or just does not; its ids are mostly of things that there are."""
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    try:
        case = draw(operation.as_strategy(generation_mode=mode))
    except schemathesis.errors.SchemathesisError:  # nothing can be wrong with it
        case = draw(operation.as_strategy())
    noun = operation.path.removeprefix(BASE).removeprefix("/mcp").split("/")[1]
    route = _route(operation)
    known = site.ids.get(noun, []) if route is None or route.door is None else [site.platform]
    known = known * 3 + site.foreign[-1:]
    mostly = draw(st.integers(0, 3)) > 0
    if known and case.path_parameters and mostly:
        case.path_parameters = dict.fromkeys(case.path_parameters, draw(st.sampled_from(known)))
    return case


def _check(site: Site, session: requests.Session, case: Case[Any]) -> None:
    route = _route(case.operation)
    for role, key in site.keys.items():
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = case.call(
            base_url=site.url, session=session, headers=headers, allow_redirects=False
        )
        said = (case.operation.label, role, answer.status_code, answer.content[:300])
        if route is None:
            assert answer.status_code == 200, said
        elif role not in route.roles:
            assert answer.status_code in REFUSED, said
        else:
            assert answer.status_code != 401, said
        excused = _excused(case, route, answer)
        case.validate_response(answer, checks=[one for one in CHECKS if one not in excused])


def _excused(case: Case[Any], route: Route | None, answer: schemathesis.Response) -> list[Any]:
    """The checks that do not know what this answer means."""
    excused: list[Any] = []
    # A platform that asks for a verdict gets one, whatever it sends; each of a list of events has
    # an answer of its own; and 413 refuses as well.
    asks = route is not None and route.fault is not None
    if asks or answer.status_code == 413 or _is_of_events(case, answer):
        excused.append(negative_data_rejection)
    # A server is scanned before it is activated, and none of these is there.
    if answer.status_code == 503 and case.operation.label == f"PATCH {BASE}/mcp/servers/{{id}}":
        excused.append(not_a_server_error)
    return excused


def _is_of_events(case: Case[Any], answer: schemathesis.Response) -> bool:
    if not isinstance(case.body, list) or answer.status_code != 200:
        return False
    answers = answer.json()
    # What is no event must have been refused: its neighbours say nothing of it.
    return len(answers) == len(case.body) and all(
        one["status"] == 400
        for event, one in zip(case.body, answers, strict=True)
        if not isinstance(event, dict)
    )


def _each(fault: BaseException) -> list[str]:
    if isinstance(fault, BaseExceptionGroup):
        return [text for one in fault.exceptions for text in _each(one)]
    return [f"{type(fault).__name__} {str(fault)[:1500]} {getattr(fault, '__notes__', '')!s:.700}"]


def _fuzz(site: Site) -> list[str]:
    # Without `security`: keys are sent here, role by role, and none is left out elsewhere.
    described = {**orjson.loads(specification()), "security": []}
    document = schemathesis.openapi.from_dict(described)
    faults = []
    with requests.Session() as session:
        session.trust_env = False
        for result in document.get_all_operations():
            operation = result.ok()  # type: ignore[union-attr]
            test = settings(
                max_examples=EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )(given(_cases(operation, site))(lambda case: _check(site, session, case)))
            try:
                test()
            except (AssertionError, ValueError, BaseExceptionGroup) as fault:
                faults += [f"{operation.label}: {one}" for one in _each(fault)]
    return faults


async def test_every_operation_keeps_to_the_document_for_every_role(tmp_path: Path) -> None:
    need_opa()
    async with a_site(tmp_path) as site:
        faults = await anyio.to_thread.run_sync(_fuzz, site)
    assert not faults, "\n\n".join(faults)
