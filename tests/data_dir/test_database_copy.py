"""From SQLite to PostgreSQL: everything arrives, nothing half, and the log goes on as it was."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert

from gateway.data_dir import database_copy
from gateway.data_dir.database_copy import CopyRefused, move
from gateway.data_dir.state import is_made
from gateway.database_place import DATABASE, PostgresUrl
from gateway.refusals import Refused
from gateway.registry import approvals
from gateway.registry.core import Actor
from gateway.store import tables
from gateway.store.database import DatabaseLocked, reading_engine
from gateway.values import Action, Fate, ProjectId, Role
from tests.builders import World, a_state, an_outcome
from tests.postgresql import a_database
from tests.test_cli import gateway
from tests.trace.evidence_world import append, judge, sign, write

pytestmark = [pytest.mark.anyio, pytest.mark.sqlite("it moves SQLite's file")]

ANN = Actor(ProjectId("prj_1"), "usr_ann", "Ann", Role.ADMIN)


@pytest.fixture
def target() -> Iterator[PostgresUrl]:
    with a_database() as place:
        yield place


async def fill(world: World) -> str:
    """Calls of every fate, a spent approval and one that waits, budgets, an anchor, a call that a
    crash left open. Returns the budget's id.
    """
    budget = world.add_budget(1_000)
    admission = world.admission()
    for n in range(40):
        permit = await admission.admit(world.approved(arguments={"object": f"ä\t{n}\\N\n"}))
        if n:
            fate = Fate.NOT_FORWARDED if n % 5 == 0 else Fate.ANSWERED
            await world.state.settlement.settle(permit, an_outcome(fate))
    for _ in range(2):
        with pytest.raises(Refused):
            await admission.admit(world.approved(Action.REQUIRE_APPROVAL))
        if len(world.approvals()) == 1:
            [(approval,)] = world.rows("SELECT id FROM approvals")
            await approve(world, approval)
            spent = await admission.admit(world.approved(Action.REQUIRE_APPROVAL))
            await world.state.settlement.settle(spent, an_outcome())
    await asyncio.to_thread(append, world, 300, input=b'{"input":{}}')
    signed = await asyncio.to_thread(sign, world)
    head = signed.checkpoint
    anchor = {
        "id": "anc_1",
        "backend": "tsa",
        "log": signed.log,
        "origin": head.origin,
        "size": head.size,
        "root": head.root,
        "note": signed.note,
        "state": "final",
        "created_at": world.state.clock.now(),
        "proof": bytes(range(256)),
    }
    await asyncio.to_thread(
        world.change, lambda c: c.execute(insert(tables.anchors).values(**anchor))
    )
    return budget


async def approve(world: World, approval_id: str) -> None:
    await world.state.registry.change(ANN, lambda ch: approvals.decide(ch, approval_id, "approve"))


def all_rows(world: World, place: Path | PostgresUrl) -> dict[str, list[object]]:
    """Of every table, as the program itself reads them."""
    engine = reading_engine(place)
    with engine.connect() as connection, connection.begin():
        found: dict[str, list[object]] = {
            table.name: [
                tuple(row)
                for row in connection.execute(table.select().order_by(*table.primary_key))
            ]
            for table in tables.metadata.sorted_tables
        }
    engine.dispose()
    return found


async def test_a_full_database_arrives_and_its_gateway_goes_on_with_the_same_log(
    tmp_path: Path, target: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with a_state(data) as world:
        budget = await fill(world)
        bundle = write(world, tmp_path / "before")
        assert judge(world, bundle).code == 0
        origin, size, root = world.state.log.origin, world.state.log.size, world.state.log.root()
        waiting = world.approvals()
        window = world.window(budget)
        open_before = world.open_calls()
        assert len(open_before) == 1
        before = all_rows(world, world.state.place)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", target)
    done = gateway("db", "copy", "--data-dir", str(data), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["heads"] == [{"origin": origin, "size": size, "root": root.hex()}]
    assert told["rows"] == sum(len(rows) for rows in before.values())
    after = all_rows(world, target)
    for name in before.keys() - {"log_slots"}:
        assert after[name] == before[name], name
    assert not (data / DATABASE).exists()

    with a_state(data, target) as world:
        assert (world.state.log.origin, world.state.log.slot.number) == (origin, 0)
        # The call that was open is settled as after any start.
        assert world.open_calls() == []
        fates = [record["fate"] for record in world.records("outcome", open_before[0])]
        assert fates == ["unknown"]
        assert world.window(budget) == (window[0] + window[1], 0)
        assert world.approvals() == waiting
        [(pending,)] = world.rows("SELECT id FROM approvals WHERE state = 'PENDING'")
        await approve(world, pending)
        await world.admission().admit(world.approved(Action.REQUIRE_APPROVAL))
        await asyncio.to_thread(sign, world)
        later = write(world, tmp_path / "after")
        verdict = judge(world, later, previous=bundle / "logs/0/checkpoint.txt")
        assert verdict.code == 0, verdict.text
        assert verdict.checks["consistency.previous"] == "PASS"
        done = gateway("verify", "db", "--trust-key", world.state.checkpoints.verifier_key)
        assert (done.exit_code, "verdict: VALID" in done.stdout) == (0, True), done.output
        world.change(lambda c: c.exec_driver_sql("UPDATE trace SET tool = 'x' WHERE idx = 3"))
        done = gateway("verify", "db")
        assert (done.exit_code, "records.columns" in done.stdout) == (1, True), done.output


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    with a_state(tmp_path / "data") as world:
        append(world, 3)
    return tmp_path / "data"


def kept(data: Path, target: PostgresUrl) -> bool:
    """Whether the source stands as it did, and the target is empty."""
    return (data / DATABASE).exists() and not is_made(target)


async def test_a_gateway_that_runs_is_not_copied(tmp_path: Path, target: PostgresUrl) -> None:
    with a_state(tmp_path / "data"), pytest.raises(DatabaseLocked, match="in use"):
        move(tmp_path / "data", target)
    assert kept(tmp_path / "data", target)


async def test_a_target_with_anything_in_it_is_refused(
    stopped: Path, tmp_path: Path, target: PostgresUrl
) -> None:
    with a_state(tmp_path / "other", target) as world:
        append(world)
        size = world.state.log.size
    with pytest.raises(CopyRefused, match="not empty"):
        move(stopped, target)
    assert (stopped / DATABASE).exists()
    with a_state(tmp_path / "other", target) as world:
        assert world.state.log.size == size


async def test_a_source_of_another_version_is_refused(stopped: Path, target: PostgresUrl) -> None:
    with sqlite3.connect(stopped / DATABASE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0019'")
    connection.close()
    with pytest.raises(CopyRefused, match=r"schema 0019 and this gateway's is \d{4}: run"):
        move(stopped, target)
    assert kept(stopped, target)


@pytest.mark.parametrize("place", ["_copy_table", "_heads", "_set_sequences"])
async def test_a_copy_that_is_cut_short_leaves_nothing_and_can_be_made_again(
    stopped: Path, target: PostgresUrl, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    done, last = getattr(database_copy, place), tables.metadata.sorted_tables[-1]

    def dies(*given: object) -> object:
        if place == "_copy_table" and last not in given:
            return done(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(database_copy, place, dies)
        with pytest.raises(KeyboardInterrupt):
            move(stopped, target)
    assert kept(stopped, target)
    assert [head.size for head in move(stopped, target).heads] == [6]


async def test_a_copy_that_differs_is_not_kept(
    stopped: Path, target: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = database_copy._pages

    def one_short(cursor: object) -> Iterator[tuple[object, ...]]:
        yield from list(read(cursor))[:-1]

    with monkeypatch.context() as patched:
        patched.setattr(database_copy, "_plain", lambda row: (*row[:-1], "other"))
        with pytest.raises(CopyRefused, match="differs"):
            move(stopped, target)
    with monkeypatch.context() as patched:
        patched.setattr(database_copy, "_pages", one_short)
        with pytest.raises(CopyRefused):
            move(stopped, target)
    assert kept(stopped, target)


async def test_an_old_file_that_is_served_all_the_same_knows_that_it_is_behind(
    stopped: Path, target: PostgresUrl
) -> None:
    moved = move(stopped, target)
    with a_state(stopped, target) as world:
        append(world)
        world.state.checkpoints.publish(sign(world))
        [origin] = [head.origin for head in moved.heads]
        assert world.state.log.origin == origin
    (stopped / moved.left).rename(stopped / DATABASE)
    with a_state(stopped) as world:
        assert world.state.log.origin != origin


async def test_it_says_where_to_copy_to(stopped: Path) -> None:
    done = gateway("db", "copy", "--data-dir", str(stopped))
    assert (done.exit_code, "set GATEWAY_DATABASE_URL" in done.stderr) == (1, True)
