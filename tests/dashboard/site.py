"""The dashboard in memory, and people of every role who sign in to it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.dashboard.context import DashboardContext
from gateway.dashboard.entry import Dashboard
from gateway.registry import users
from gateway.registry.core import Actor
from gateway.registry.users import NewUser, UserRole
from gateway.settings import LOOPBACK_NETWORKS
from gateway.settings.oidc import OidcSettings
from tests.api.world import World, a_world

PASSWORD = "correct horse battery"
SITE = "https://gateway.example.com"
PEOPLE: dict[UserRole, str] = {"admin": "Alma", "approver": "Ada", "auditor": "Aud"}


@dataclass
class Site:
    world: World
    secure: bool = True
    wait: float = 0.0
    identity: OidcSettings | None = None

    @asynccontextmanager
    async def browser(self, base: str = SITE) -> AsyncIterator[httpx.AsyncClient]:
        context = DashboardContext(
            self.world.context,
            self.secure,
            (),
            lambda _address: self.wait,
            Path("opa"),
            identity=self.identity,
            private_allowed=LOOPBACK_NETWORKS,
        )
        transport = httpx.ASGITransport(Dashboard(context))
        async with httpx.AsyncClient(
            transport=transport, base_url=base, headers={"Origin": base}
        ) as client:
            yield client

    @asynccontextmanager
    async def person(self, role: UserRole) -> AsyncIterator[httpx.AsyncClient]:
        """Somebody of this role who has signed in."""
        async with self.browser() as client:
            entered = await sign_in(client, name=PEOPLE[role])
            assert entered.status_code == 303
            yield client


@contextmanager
def a_site(folder: Path) -> Iterator[Site]:
    with a_world(folder) as world:
        password_hash = users.hashed_now(PASSWORD)
        for role, name in PEOPLE.items():
            add(world, role, name, password_hash)
        yield Site(world)


def add(world: World, role: UserRole, name: str, password_hash: str) -> None:
    new = NewUser(name=name, role=role)
    by = Actor.operator(world.project_id, name)
    world.state.registry.change_now(by, lambda change: users.create(change, new, password_hash))


async def sign_in(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    form = {"name": "Ada", "password": PASSWORD, "next": ""} | fields
    return await client.post("/dashboard/sign-in", data=form)


def csrf_of(answer: httpx.Response) -> str:
    return answer.text.split('name="csrf" value="')[1].split('"')[0]
