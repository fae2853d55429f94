"""What the server of a shared database does to a gateway, and what the gateway asks of it."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoPlaceInPool

from gateway.background.following import Following
from gateway.database_place import PostgresUrl
from gateway.registry import stops
from gateway.store import database, postgresql
from gateway.store.postgresql import DatabaseAway
from gateway.trace.recheck import recheck
from gateway.values import Stop
from tests.builders import World, a_state, an_outcome
from tests.gateways import a_pair
from tests.postgresql import a_database, server
from tests.test_cli import gateway
from tests.test_two_gateways import ANN, outcome_of, raise_stop
from tests.trace.evidence_world import append, sign

pytestmark = pytest.mark.anyio


@pytest.fixture
def place() -> Iterator[PostgresUrl]:
    with a_database() as place:
        yield place


def as_superuser(place: PostgresUrl, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(place, autocommit=True, application_name="the test") as connection:
        return connection.execute(statement.encode()).fetchall()


OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'the test'"
LISTENS = f"{OURS} AND query LIKE 'LISTEN%'"


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not await anyio.to_thread.run_sync(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def listens(place: PostgresUrl, other_than: object = 0) -> Callable[[], object]:
    return lambda: as_superuser(place, f"SELECT pid {LISTENS} AND pid <> {other_than}")


def more_than(cut: list[Stop], count: int) -> bool:
    return len(cut) > count


async def lift(world: World, stop_id: str) -> None:
    await world.state.registry.change(ANN, lambda change: stops.lift(change, stop_id, "over"))


async def test_a_lost_listening_connection_is_made_again_and_no_stop_is_missed(
    tmp_path: Path, place: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that what is heard in time was heard, and not found by asking.
    monkeypatch.setattr("gateway.background.following.POLL_SECONDS", 3.0)
    with a_pair(tmp_path, place) as (one, two):
        cut: list[Stop] = []
        running = asyncio.create_task(Following(two.state, cut.append).run())
        await until(listens(place))
        for n in range(2):
            ended = as_superuser(place, f"SELECT pid, pg_terminate_backend(pid) {LISTENS}")
            assert len(ended) == 1
            stop_id = await raise_stop(one)  # while nobody listens
            await until(listens(place, ended[0][0]))
            await until(partial(more_than, cut, n))
            assert cut[-1].id == stop_id
            await lift(one, stop_id)
        await end(running)
        assert await outcome_of(two, two.approved()) == "passed"


async def test_a_gateway_takes_no_more_connections_than_it_says(
    tmp_path: Path, place: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_state(tmp_path, place) as world:
        reader = world.state.reader
        following = asyncio.create_task(Following(world.state, lambda _: None).run())
        await until(listens(place))
        world.state.writer.change_now(lambda _: None)
        # What follows changes reads over the same pool: it is stopped before all are taken.
        await end(following)
        held = [reader.connect() for _ in range(postgresql.READERS)]
        for connection in held:
            connection.execute(text("SELECT 1"))
        [(count,)] = as_superuser(place, f"SELECT count(*) {OURS}")
        assert postgresql.READERS < int(str(count)) <= postgresql.READERS + 2
        monkeypatch.setattr(reader.pool, "_timeout", 0.1)
        with pytest.raises(NoPlaceInPool):
            reader.connect()
        for connection in held:
            connection.close()
        # Calls are admitted whatever the readers do.
        assert await outcome_of(world, world.approved()) == "passed"


def limit(connection: Connection, name: str, value: str) -> None:
    """For this session, until it ends: shorter than what `test_every_session_has_limits` finds."""
    connection.execute(text(f"SET {name} = '{value}'"))


async def test_every_session_has_limits(tmp_path: Path, place: PostgresUrl) -> None:
    with a_state(tmp_path, place) as world:

        def limits(connection: Connection) -> list[str]:
            names = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
            return [str(connection.execute(text(f"SHOW {name}")).scalar()) for name in names]

        with world.state.reader.connect() as connection:
            assert limits(connection) == ["10s", "10s", "30s"]
        assert world.state.writer.change_now(limits) == ["10s", "10s", "30s"]


async def test_a_gateway_that_hangs_in_a_transaction_holds_up_others_for_a_while_only(
    tmp_path: Path, place: PostgresUrl
) -> None:
    """It has lost its transaction when it wakes, and says so instead of committing a part."""
    engine = database.writing_engine(place)
    with a_state(tmp_path, place) as world, engine.connect() as hanging:
        hanging.begin()
        database.take_turn(hanging, alone=True)
        hanging.execute(text("UPDATE projects SET name = 'half'"))
        limit(hanging, "idle_in_transaction_session_timeout", "1s")
        assert await outcome_of(world, world.approved()) == "passed"
        with pytest.raises(DBAPIError) as fault:
            hanging.execute(text("SELECT 1"))
        assert database.is_lost(hanging)
        assert database.may_pass(fault.value)
        hanging.invalidate()
        assert world.rows("SELECT name FROM projects") == [("Acme",)]
    engine.dispose()


async def test_a_lock_that_is_not_given_up_and_a_statement_without_end_are_left(
    tmp_path: Path, place: PostgresUrl
) -> None:
    """The call is refused, nothing of it is written, and the next one passes."""
    with a_state(tmp_path, place) as world:
        size = world.state.log.size
        world.change(lambda c: limit(c, "lock_timeout", "200ms"))
        with psycopg.connect(place, application_name="the test") as holder:
            holder.execute("SELECT pg_advisory_xact_lock(%s, 0)", (postgresql._TURN,))
            with pytest.raises(DatabaseAway, match="LockNotAvailable"):
                await world.admission().admit(world.approved())
            assert world.state.writer.failing

        def without_end(connection: Connection) -> None:
            connection.execute(text("SET LOCAL statement_timeout = '200ms'"))
            connection.execute(text("SELECT pg_sleep(600)"))

        with pytest.raises(DBAPIError, match="QueryCanceled"):
            await world.state.writer.change(without_end)
        assert world.state.log.size == size
        assert await outcome_of(world, world.approved()) == "passed"
        assert not world.state.writer.failing


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_dump_of_a_running_gateway_is_a_backup(
    tmp_path: Path, place: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = server().programs
    data, dump = tmp_path / "data", tmp_path / "gateway.dump"
    with a_state(data, place) as world:
        append(world, 20, input=b"{}")
        run(programs / "pg_dump", "--format=custom", f"--file={dump}", place)
        append(world, 1)
        world.state.checkpoints.publish(sign(world))
        origin = world.state.log.origin
    with a_database() as fresh:
        run(programs / "pg_restore", "--no-owner", f"--dbname={fresh}", dump)
        with a_state(data, PostgresUrl(fresh)) as world:
            [sealed] = world.rows("SELECT origin FROM logs WHERE sealed_at IS NOT NULL")
            assert sealed == (origin,)
            assert await outcome_of(world, world.approved()) == "passed"
            with world.state.reader.connect() as connection, connection.begin():
                found = recheck(connection, None, lambda *_: None)
            assert {check.status for check in found} == {"PASS"}
    monkeypatch.setenv("GATEWAY_DATABASE_URL", place)
    refused = gateway("backup", tmp_path / "backup", "--data-dir", data)
    assert (refused.exit_code, "pg_dump" in refused.stderr) == (1, True)
    assert not (tmp_path / "backup").exists()


async def test_what_a_newer_gateway_adds_leaves_a_running_one_alone_and_keeps_it_from_starting(
    tmp_path: Path, place: PostgresUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling upgrade: the first gateway of the new version migrates beside the others."""
    with a_state(tmp_path, place) as world:
        assert await outcome_of(world, world.approved()) == "passed"
        with psycopg.connect(place, application_name="the test") as newer:
            newer.execute("SELECT pg_advisory_xact_lock(%s, 0)", (postgresql._TURN,))
            newer.execute("CREATE TABLE later (id varchar PRIMARY KEY)")
            for table in ("trace", "open_calls", "projects", "servers", "keys"):
                newer.execute(f"ALTER TABLE {table} ADD COLUMN later bigint NOT NULL DEFAULT 0")
            newer.execute("UPDATE alembic_version SET version_num = '9999'")
        budget = world.add_budget(5)
        permit = await world.admission().admit(world.approved())
        await world.state.settlement.settle(permit, an_outcome())
        await world.state.writer.change(lambda _: None)
        assert world.window(budget) == (1, 0)
        append(world, 2, input=b"{}")
        world.check_log()
    monkeypatch.setenv("GATEWAY_DATABASE_URL", place)
    refused = gateway("project", "create", "Other", "--data-dir", tmp_path)
    assert refused.exit_code == 1
    assert "the database has schema 9999, which this gateway does not know" in refused.stderr
