"""People who sign in: passwords, lock-out, what a new role or password ends."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.clock import after
from gateway.registry import sessions, users
from gateway.registry.core import Actor
from gateway.registry.faults import Conflict, Forbidden
from gateway.registry.people import User
from gateway.registry.users import FREE_FAILURES, NewUser, SignInRefused, UserPatch
from gateway.store import tables
from gateway.values import Role
from tests import places
from tests.api.world import World, a_world

pytestmark = pytest.mark.anyio
PASSWORD = "correct horse battery"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


async def a_user(world: World, name: str = "Ada", role: str = "approver") -> User:
    new = NewUser.model_validate({"name": name, "role": role})
    password_hash = await users.hashed(PASSWORD)
    by = Actor.operator(world.project_id, "Olga")
    row = await world.state.registry.change(by, lambda ch: users.create(ch, new, password_hash))
    return users.of(row)


async def signs_in(world: World, name: str = "Ada", password: str = PASSWORD) -> User:
    return await users.authenticate(world.state.registry, name, password)


async def test_the_right_password_is_the_person(world: World) -> None:
    ada = await a_user(world)
    assert await signs_in(world) == ada
    assert await signs_in(world, " ADA ") == ada
    for name, password in (("Ada", "wrong"), ("Eve", PASSWORD), ("", "")):
        with pytest.raises(SignInRefused):
            await signs_in(world, name, password)


async def test_a_password_is_kept_as_argon2id_only(world: World) -> None:
    await a_user(world)
    with world.state.reader.connect() as connection:
        stored = connection.execute(select(tables.users.c.password_hash)).scalar_one()
    assert stored.startswith("$argon2id$")
    database = places.stored(world.state.data_dir)
    assert PASSWORD.encode() not in database


async def test_wrong_passwords_lock_a_person_out_for_longer_and_longer(world: World) -> None:
    await a_user(world)
    for _ in range(FREE_FAILURES + 1):
        with pytest.raises(SignInRefused):
            await signs_in(world, password="wrong")
    assert world.events()[-1] == "user.locked"
    lasted = []
    for _ in range(3):
        with pytest.raises(SignInRefused):  # the right one does not help now
            await signs_in(world)
        with world.state.reader.connect() as connection:
            until = connection.execute(select(tables.users.c.locked_until)).scalar_one()
        began = world.state.clock.now()
        assert until > began
        lasted.append(until)
        world.state.clock.not_before(after(until, 1))
        with pytest.raises(SignInRefused):
            await signs_in(world, password="wrong")
    with world.state.reader.connect() as connection:
        until = connection.execute(select(tables.users.c.locked_until)).scalar_one()
    world.state.clock.not_before(after(until, 1))
    assert (await signs_in(world)).name == "Ada"
    with world.state.reader.connect() as connection:
        assert connection.execute(select(tables.users.c.failures)).scalar_one() == 0


async def test_guesses_made_at_once_are_counted_before_they_are_looked_at(world: World) -> None:
    await a_user(world)
    guesses = [signs_in(world, password=f"guess {n}") for n in range(20)]
    await asyncio.gather(*guesses, return_exceptions=True)
    with world.state.reader.connect() as connection:
        failures = connection.execute(select(tables.users.c.failures)).scalar_one()
    # One more than is free was looked at; the rest met the lock.
    assert failures == FREE_FAILURES + 1
    with pytest.raises(SignInRefused):
        await signs_in(world)


async def test_a_name_is_one_persons_in_a_project(world: World) -> None:
    await a_user(world, "Ada")
    with pytest.raises(Conflict):
        await a_user(world, "ADA")


async def test_a_name_in_two_projects_needs_the_projects_slug(world: World) -> None:
    ada = await a_user(world)
    new = NewUser(name="Ada", role="admin")
    password_hash = await users.hashed(PASSWORD)
    by = Actor.operator(world.foreign_id)
    await world.state.registry.change(by, lambda ch: users.create(ch, new, password_hash))
    with pytest.raises(SignInRefused):
        await signs_in(world)
    assert await users.authenticate(world.state.registry, "Ada", PASSWORD, "one") == ada


async def opened(world: World, user: User) -> str:
    by = Actor.of_user(user)
    return await world.state.registry.change(by, lambda change: sessions.open(change, user))


async def session(world: World, token: str) -> sessions.Session | None:
    now = world.state.clock.now()
    return await world.state.registry.read(lambda c: sessions.of(c, token, now))


async def test_a_session_is_its_persons_until_it_is_closed(world: World) -> None:
    ada = await a_user(world)
    token = await opened(world, ada)
    found = await session(world, token)
    assert found is not None
    assert found.user == ada
    assert sessions.is_csrf(found, found.csrf)
    assert not sessions.is_csrf(found, "")
    assert await session(world, token + "x") is None
    assert token.encode() not in places.stored(world.state.data_dir)
    by = Actor.of_user(ada)
    await world.state.registry.change(by, lambda change: sessions.close(change, found))
    assert await session(world, token) is None


async def test_a_session_idles_away_and_ends_however_much_it_is_used(world: World) -> None:
    ada = await a_user(world)
    by = Actor.of_user(ada)
    idle, used = await opened(world, ada), await opened(world, ada)
    began = world.state.clock.now()
    for minutes in range(25, 12 * 60, 25):
        world.state.clock.not_before(after(began, minutes * 60))
        found = await session(world, used)
        assert found is not None
        assert found.stale
        await world.state.registry.change(by, partial(sessions.seen, session=found))
        assert (await session(world, idle) is None) == (minutes >= 30)
    world.state.clock.not_before(after(began, 12 * 3600 + 1))
    assert await session(world, used) is None


@pytest.mark.parametrize("what", ["role", "password", "removed"])
async def test_a_change_of_role_or_password_ends_sessions(world: World, what: str) -> None:
    ada = await a_user(world)
    token = await opened(world, ada)
    found = await session(world, token)
    assert found is not None
    by = Actor.operator(world.project_id)
    change = world.state.registry.change
    if what == "removed":
        await change(by, lambda ch: users.remove(ch, ada.id))
    elif what == "role":
        await change(by, lambda ch: users.patch(ch, ada.id, UserPatch(role="auditor"), None))
    else:
        new = await users.hashed("another password")
        await change(by, lambda ch: users.patch(ch, ada.id, UserPatch(), new))
        with pytest.raises(SignInRefused):
            await signs_in(world)
    assert await session(world, token) is None
    with pytest.raises(Forbidden):
        await change(Actor.of_user(ada), lambda ch: sessions.must_live(ch, found))


async def test_who_gave_a_password_knows_it_until_it_is_changed(world: World) -> None:
    ada = await a_user(world)

    def knowing() -> set[str]:
        with world.state.reader.connect() as connection:
            return users.knowing(connection, world.project_id, ada.id)

    assert knowing() == {"Ada", "Olga"}
    with pytest.raises(SignInRefused):
        await users.change_password(world.state.registry, ada, "wrong", "a new password")
    await users.change_password(world.state.registry, ada, PASSWORD, "a new password")
    assert knowing() == {"Ada"}
    assert await signs_in(world, password="a new password") == ada


async def test_what_happens_to_a_person_is_on_the_trail(world: World) -> None:
    ada = await a_user(world)
    token = await opened(world, ada)
    found = await session(world, token)
    assert found is not None
    by = Actor.of_user(ada)
    await world.state.registry.change(by, lambda change: sessions.close(change, found))
    async with world.client(Role.ADMIN) as client:
        items = (await client.get("traces?limit=200")).json()["items"]
        records = [(await client.get(f"traces/{item['id']}")).json() for item in items[:3]]
    text = str(records)
    for event in ("user.created", "session.opened", "session.closed"):
        assert event in text
    assert "Ada" in text
