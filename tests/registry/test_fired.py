"""When each policy fired last: counted once for the past, anew for what came since."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from gateway import clock
from gateway.registry import fired
from gateway.registry.fired import Fired, Firings
from gateway.trace.record import Draft
from tests.api.world import World, a_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


def decided(world: World, number: int, *policies: str) -> str:
    """The time of the record."""
    draft = Draft("decision", f"trc_{number}", world.project_id, {"rules": list(policies)})
    found: list[str] = []

    def append(connection: Connection) -> int:
        found.append(world.state.log.append(connection, [draft])[0].ts)
        return 1

    world.state.writer.change_now(append)
    return found[0]


def look(world: World, firings: Firings, now: str) -> Fired:
    with world.state.reader.connect() as connection:
        return firings.look(connection, world.project_id, now)


def test_each_policy_is_told_with_its_last_time_and_how_often(world: World) -> None:
    decided(world, 1, "a", "b")
    last = decided(world, 2, "a")
    firings = Firings()
    found = look(world, firings, last)
    assert (found.policies["a"].last, found.policies["a"].times) == (last, 2)
    assert found.policies["b"].times == 1
    assert "c" not in found.policies
    # What is settled is counted once, what came since is added.
    later = clock.after(last, 2 * fired._SETTLED_SECONDS)
    assert look(world, firings, later).policies == found.policies
    assert look(world, firings, clock.after(later, 3600)).policies == found.policies


def test_how_far_back_is_known_grows_with_each_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = decided(world, 1, "a")
    monkeypatch.setattr(fired, "_LOOK_SECONDS", -1.0)
    later = clock.after(last, 86_400.0)
    firings = Firings()
    found = look(world, firings, later)
    assert found.policies == {}
    assert found.since > last
    monkeypatch.setattr(fired, "_LOOK_SECONDS", 60.0)
    found = look(world, firings, later)
    assert found.policies["a"].times == 1
    assert found.since <= last


def test_another_projects_decisions_are_not_told(world: World) -> None:
    last = decided(world, 1, "a")
    firings = Firings()
    with world.state.reader.connect() as connection:
        assert firings.look(connection, "prj_other", last).policies == {}
