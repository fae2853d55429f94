"""Every route × every role × whose: what is answered follows from the route table, or it is wrong.

The rows are the table's, so that a new route is in the matrix before anybody thinks of it.
"""

import re
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from gateway.api.endpoint import Route
from gateway.api.routes import ROUTES
from gateway.registry import extensions
from gateway.registry.core import Actor
from gateway.registry.extensions import NewExtension
from gateway.registry.keys import NewKey, create
from gateway.values import ProjectId, Role
from tests.api.test_roles import BODIES, _made, _named
from tests.api.world import PUBLIC_URL, SCOPES, World

pytestmark = pytest.mark.anyio

OF_THE_INSTALLATION = ("/mcp/templates", "/policy/", "/anchors/")
"""What is nobody's: there is nothing foreign about it."""
INNER = re.compile(r"\{.*\{")
"""A second id in the path; what is made for these tests has none of that kind."""
BY_SOMEBODY_ELSE = {"POST /approvals/{id}/approve", "POST /proposals/{id}/confirm"}
"""Here all is one person's, and nobody says yes to themselves."""
WITHOUT_A_POLICY = "POST /policy/replay"
"""This world has none that decides."""


@dataclass(frozen=True)
class Owner:
    """One project's keys, by role, and its extension's id."""

    keys: dict[Role, str]
    extension: str


def owner(world: World, project_id: ProjectId) -> Owner:
    """Keys of every role in the project."""
    by = Actor.operator(project_id)
    keys = {}
    for role in (Role.ADMIN, Role.PROJECT, Role.APPROVER, Role.AUDITOR):
        new = NewKey.model_validate({"role": role.value, "name": role.value, "owner": "Robin"})
        keys[role] = world.state.registry.change_now(by, partial(create, new=new))[1]
    made = NewExtension.model_validate({"name": "own", "type": "custom", "scopes": SCOPES})
    row, keys[Role.EXTENSION], _ = world.state.registry.change_now(
        by, lambda change: extensions.create(change, made)
    )
    return Owner(keys, row.id)


async def target(world: World, route: Route, whose: Owner) -> str:
    """The route's path with an id of a thing that the owner has, new for each request."""
    row_id = "none"
    if route.door is not None:
        row_id = whose.extension
    elif "{" in route.path and not route.path.startswith(OF_THE_INSTALLATION):
        noun = route.path.removeprefix("/mcp").split("/")[1]
        row_id = await _made(world, whose.keys[Role.ADMIN], noun)
    return PUBLIC_URL + route.base + re.sub(r"\{\w+\}", row_id, route.path)


async def ask(client: httpx.AsyncClient, route: Route, path: str) -> httpx.Response:
    body = BODIES.get(_named(route), {} if route.body is not None else None)
    return await client.request(route.method, path, json=body)


NOUNS = sorted({route.path.removeprefix("/mcp").split("/")[1] for route in ROUTES})


@pytest.mark.parametrize("noun", NOUNS)
async def test_who_may_follows_from_the_table(world: World, noun: str) -> None:
    own, foreign = owner(world, world.project_id), owner(world, world.foreign_id)
    for route in ROUTES:
        if route.path.removeprefix("/mcp").split("/")[1] == noun:
            await check_who_may_not(world, route, own, foreign)
            for role in sorted(route.roles):
                await check_who_may(world, route, role, own, foreign)


async def check_who_may_not(world: World, route: Route, own: Owner, foreign: Owner) -> None:
    """Nobody without a living key, nor any role that the table does not name."""
    path = await target(world, route, own)
    before = world.state.log.size
    for nobody in (None, "gwa_nobody", own.keys[Role.ADMIN][:-1]):
        async with world.client(nobody) as client:
            assert (await ask(client, route, path)).status_code == 401, route
    for role in set(Role) - route.roles:
        for whose in (own, foreign):
            async with world.client(whose.keys[role]) as client:
                assert (await ask(client, route, path)).status_code == 403, (route, role)
    assert world.state.log.size == before


async def check_who_may(world: World, route: Route, role: Role, own: Owner, foreign: Owner) -> None:
    """A role that the table names, with what is its project's; another's does not exist for it."""
    path = await target(world, route, own)
    has_id = "{" in route.path and not route.path.startswith(OF_THE_INSTALLATION)
    if has_id:
        before = world.state.log.size
        async with world.client(foreign.keys[role]) as client:
            assert (await ask(client, route, path)).status_code == 404, (route, role)
        assert world.state.log.size == before
    async with world.client(own.keys[role]) as client:
        answer = await ask(client, route, path)
    said = (route, role, answer.status_code, answer.text[:300])
    assert answer.status_code != 401, said
    assert answer.status_code != 403 or _named(route) in BY_SOMEBODY_ELSE, said
    assert answer.status_code < 500 or _named(route) == WITHOUT_A_POLICY, said
    if has_id and not INNER.search(route.path) and role is not Role.EXTENSION:
        assert answer.status_code != 404, said
