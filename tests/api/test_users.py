"""`/users`: people made, changed and removed; whose approval counts."""

import pytest

from gateway.registry import approvals, users
from gateway.registry.approvals import Ruling
from gateway.registry.core import Actor
from gateway.registry.faults import Forbidden
from gateway.registry.people import User
from gateway.registry.users import NewUser
from gateway.values import Role
from tests.api.world import World

pytestmark = pytest.mark.anyio

ROBIN = {"name": "Robin", "role": "approver"}


async def test_a_password_is_made_and_shown_once(world: World) -> None:
    async with world.client() as client:
        made = (await client.post("users", json=ROBIN)).json()
        assert made["locked_until"] is None
        user = await users.authenticate(world.state.registry, "Robin", made["password"])
        assert (user.id, user.role) == (made["id"], Role.APPROVER)
        given = {"name": "Ada", "role": "admin", "password": "correct horse battery"}
        assert (await client.post("users", json=given)).json()["password"] is None
        items = (await client.get("users")).json()["items"]
        assert [item["name"] for item in items] == ["Robin", "Ada"]
        assert made["password"] not in str(items)
        assert "argon2" not in str(items)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Robin", "role": "project"},
        {"name": "Robin", "role": "approver", "password": "short"},
        {"name": "", "role": "approver"},
        {"name": "Robin"},
    ],
)
async def test_what_is_no_person_is_refused(world: World, body: dict[str, str]) -> None:
    async with world.client() as client:
        assert (await client.post("users", json=body)).status_code == 400


async def test_a_person_is_changed_and_removed(world: World) -> None:
    async with world.client() as client:
        made = (await client.post("users", json=ROBIN)).json()
        path = f"users/{made['id']}"
        assert (await client.patch(path, json={"role": "auditor"})).json()["role"] == "auditor"
        new = {"password": "another password"}
        assert (await client.patch(path, json=new)).status_code == 200
        user = await users.authenticate(world.state.registry, "Robin", "another password")
        assert user.role == Role.AUDITOR
        assert (await client.delete(path)).status_code == 204
        assert (await client.get("users")).json()["items"] == []
        with pytest.raises(users.SignInRefused):
            await users.authenticate(world.state.registry, "Robin", "another password")


async def approves(world: World, user: User, approval: str) -> None:
    from_registry = world.state.registry
    verdict = Ruling(reason="looked at it")
    await from_registry.change(
        Actor.of_user(user), lambda ch: approvals.decide(ch, approval, "approve", verdict.reason)
    )


async def a_user(world: World, name: str, set_by: str) -> User:
    new = NewUser(name=name, role="approver")
    by = Actor.operator(world.project_id, set_by)
    row = await world.state.registry.change(by, lambda ch: users.create(ch, new, "$argon2id$"))
    return users.of(row)


async def test_people_approve_where_keys_may_not(world: World) -> None:
    async with world.client() as client:
        await client.patch("projects/current", json={"key_approvers": False})
    robin = await a_user(world, "Robin", "Robin")
    approval = world.approval(world.keys[Role.PROJECT])
    await approves(world, robin, approval)
    async with world.client() as client:
        assert (await client.get(f"approvals/{approval}")).json()["decided_by"] == "Robin"


@pytest.mark.parametrize(("name", "set_by"), [("KIM", "KIM"), ("Robin", "kim")])
async def test_a_person_whom_the_asker_may_play_does_not_approve(
    world: World, name: str, set_by: str
) -> None:
    user = await a_user(world, name, set_by)
    _, secret = world.key(owner="Kim")
    approval = world.approval(secret)
    with pytest.raises(Forbidden, match="cannot approve"):
        await approves(world, user, approval)


async def test_a_second_administrator_is_a_second_person(world: World) -> None:
    async with world.client() as client:
        monitor = {"enforcement": "monitor"}
        assert (await client.patch("projects/current", json=monitor)).status_code == 200
        await client.patch("projects/current", json={"enforcement": "enforce"})
        await client.post("users", json={"name": "alex", "role": "admin"})  # who owns the key
        assert (await client.patch("projects/current", json=monitor)).status_code == 200
        await client.patch("projects/current", json={"enforcement": "enforce"})
        await client.post("users", json={"name": "Robin", "role": "admin"})
        assert (await client.patch("projects/current", json=monitor)).status_code == 202
