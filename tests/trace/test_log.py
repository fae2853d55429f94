"""The log in its database: places, sequences, restarts, rollbacks, and payloads that can go."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import orjson
import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from sqlalchemy import Connection, event, insert

from gateway.clock import Clock, after
from gateway.ids import new_id
from gateway.store import tables
from gateway.trace import payloads
from gateway.trace.log import MAIN_LOG, Appended, Log, LogDamaged
from gateway.trace.record import MAX_BODY, Draft, Field, RecordTooLarge, commitment
from gateway.values import ProjectId
from tests import places
from tests.builders import World, a_state

FIRST, SECOND = ProjectId("prj_1"), ProjectId("prj_2")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as world:
        world.change(lambda c: c.execute(insert(tables.projects).values(**another_project(c))))
        yield world


def another_project(connection: Connection) -> dict[str, object]:
    row = connection.execute(tables.projects.select()).one()
    return {**row._mapping, "id": SECOND, "slug": "other"}


def a_draft(project_id: ProjectId = FIRST, **fields: Field) -> Draft:
    return Draft("event", new_id("evt"), project_id, fields)


def with_payload(value: bytes, project_id: ProjectId = FIRST) -> Draft:
    return Draft("event", new_id("evt"), project_id, {}, {"input": value})


def append(world: World, *drafts: Draft) -> list[Appended]:
    return world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))


def opened(world: World, appended: Appended, field: str = "input") -> bytes:
    """The payload's value, checked against the record's commitment."""
    ((body, key_id, sealed),) = world.rows(
        "SELECT body, payload_key, sealed FROM trace JOIN payloads USING (log, idx)"
        " WHERE idx = ? AND field = ?",
        appended.idx,
        field,
    )
    keys = payloads.PayloadKeys(world.state.keyring)
    with world.state.reader.connect() as connection:
        key = keys.for_reading(connection, key_id)
    nonce, value = payloads.unseal(key, sealed, payloads.context(MAIN_LOG, appended.idx, field))
    assert orjson.loads(body)["payload"][field] == commitment(nonce, value)
    return value


def test_records_lie_without_gaps_and_each_names_the_one_before_it_in_its_project(
    world: World,
) -> None:
    for count in range(1, 30):
        append(world, *(a_draft((FIRST, SECOND)[n * n % 3 % 2], n=n) for n in range(count)))
    world.check_log()
    assert world.state.log.size == sum(range(1, 30))
    assert {record["project"] for record in world.records()} == {FIRST, SECOND}


def test_the_index_beside_a_body_says_what_the_body_says(world: World) -> None:
    fields = {"decision": "DENY", "reason_code": "policy_denied", "risk": "LOW", "agent": "agt_1"}
    draft = Draft(
        "decision", "trc_9", FIRST, {**fields, "server": "srv_1", "tool": "t"}, call_id="trc_9"
    )
    append(world, draft)
    names = ("id", "call", "project", "pseq", "ts", "kind", *fields, "server", "tool")
    columns = {"call": "call_id", "project": "project_id", "agent": "agent_id"}
    columns |= {"server": "server_id"}
    asked = ", ".join(columns.get(name, name) for name in names)
    (row,) = world.rows(f"SELECT {asked} FROM trace")
    (record,) = world.records()
    assert row == tuple(record[name] for name in names)


def test_a_log_that_is_opened_again_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, *(with_payload(b"%d" % n) for n in range(700)))
        size, root = world.state.log.size, world.state.log.root()
        last = world.records()[-1]
    with a_state(tmp_path) as world:
        assert (world.state.log.size, world.state.log.root()) == (size, root)
        append(world, a_draft())
        assert world.records()[-1]["pseq"] == last["pseq"] + 1
        assert world.records()[-1]["ts"] >= last["ts"]
        world.check_log()


def test_the_clock_never_shows_a_time_before_the_last_record(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, a_draft())
        last = world.records()[-1]["ts"]
        clock = Clock(lambda: 0.0)
        with world.state.reader.connect() as connection:
            Log(world.state.keyring, clock).load(connection, "unused", world.state.log.slot)
    assert clock.now() == last


def test_a_log_whose_leaves_are_missing_cannot_be_continued(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, *(a_draft() for _ in range(20)))
        world.state.writer.change_now(
            lambda c: c.exec_driver_sql("DELETE FROM trace WHERE idx = 17")
        )
        log = Log(world.state.keyring, Clock())
        with world.state.reader.connect() as connection:
            log.load(connection, "unused", world.state.log.slot)
            assert "damaged" in log.damage
            with pytest.raises(LogDamaged, match="damaged"):
                log.append(connection, [a_draft()])


def test_a_transaction_that_fails_leaves_no_trace(world: World) -> None:
    append(world, a_draft())
    size, root = world.state.log.size, world.state.log.root()

    def fail(connection: Connection) -> None:
        world.state.log.append(connection, [a_draft(), with_payload(b"x"), a_draft(SECOND)])
        raise LookupError("no")

    with pytest.raises(LookupError):
        world.state.writer.change_now(fail)
    assert (world.state.log.size, world.state.log.root()) == (size, root)
    assert world.rows("SELECT COUNT(*) FROM payloads") == [(0,)]
    append(world, a_draft(), with_payload(b"x"), a_draft(SECOND))
    world.check_log()


def test_a_record_that_is_too_large_takes_none_of_its_neighbours_places(world: World) -> None:
    with pytest.raises(RecordTooLarge):
        append(world, a_draft(), a_draft(x="y" * MAX_BODY))
    append(world, a_draft(), a_draft())
    world.check_log()
    assert world.state.log.size == 2


def test_a_payload_is_sealed_on_disk_and_opens_to_what_it_was(world: World) -> None:
    secret = b"the customer's very own words"
    first, second = append(world, with_payload(secret), with_payload(secret, SECOND))
    assert opened(world, first) == opened(world, second) == secret
    one, other = (record["payload"]["input"] for record in world.records())
    assert one != other  # the same value twice does not show
    assert secret not in places.stored(world.state.data_dir)


def test_a_sealed_payload_does_not_open_in_another_place(world: World) -> None:
    first, second = append(world, with_payload(b"one"), with_payload(b"two"))
    ((sealed,),) = world.rows("SELECT sealed FROM payloads WHERE idx = ?", first.idx)
    world.state.writer.change_now(
        lambda c: c.exec_driver_sql(
            places.sql("UPDATE payloads SET sealed = ? WHERE idx = ?"), (sealed, second.idx)
        )
    )
    with pytest.raises(InvalidTag):
        opened(world, second)


def test_what_is_only_committed_to_can_be_shown_by_whoever_has_it(world: World) -> None:
    draft = Draft("outcome", new_id("trc"), FIRST, commits={"result": b"the answer"})
    (appended,) = append(world, draft)
    assert world.rows("SELECT COUNT(*) FROM payloads") == [(0,)]
    with world.state.reader.connect() as connection:
        key = payloads.PayloadKeys(world.state.keyring).for_reading(
            connection, f"{FIRST}/until-{after(appended.ts, 30 * 86_400)[:7]}"
        )
    nonce = key.derived_nonce(payloads.context(MAIN_LOG, appended.idx, "result"))
    assert world.records()[0]["payload"]["result"] == commitment(nonce, b"the answer")


@pytest.mark.parametrize("erased", ["DELETE FROM payloads", "DELETE FROM payload_keys"])
def test_erasing_a_payload_or_its_months_key_leaves_the_proof_as_it_was(
    world: World, erased: str
) -> None:
    (appended,) = append(world, with_payload(b"to be forgotten"))
    root = world.state.log.root()
    world.state.writer.change_now(lambda c: c.exec_driver_sql(erased))
    world.check_log()
    assert world.state.log.root() == root
    if "payload_keys" in erased:
        with pytest.raises(payloads.PayloadErased):
            opened(world, appended)


def test_a_key_made_in_a_savepoint_that_is_undone_is_made_again(world: World) -> None:
    """The first payload of a month inside a change that fails, its neighbours in one commit."""
    log = world.state.log

    def fail(connection: Connection) -> None:
        log.append(connection, [with_payload(b"undone")])
        raise LookupError("no")

    def both(connection: Connection) -> list[Appended]:
        mark = log.mark()
        savepoint = connection.begin_nested()
        with pytest.raises(LookupError):
            fail(connection)
        savepoint.rollback()
        log.rewind(mark)
        return log.append(connection, [with_payload(b"kept")])

    (kept,) = world.state.writer.change_now(both)
    assert opened(world, kept) == b"kept"
    (later,) = append(world, with_payload(b"later"))
    assert opened(world, later) == b"later"
    world.check_log()


def test_a_key_made_before_a_savepoint_that_is_undone_stays(world: World) -> None:
    log = world.state.log

    def both(connection: Connection) -> list[Appended]:
        before = log.append(connection, [with_payload(b"before")])
        mark = log.mark()
        savepoint = connection.begin_nested()
        log.append(connection, [with_payload(b"undone")])
        savepoint.rollback()
        log.rewind(mark)
        return [*before, *log.append(connection, [with_payload(b"after")])]

    before, after = world.state.writer.change_now(both)
    assert (opened(world, before), opened(world, after)) == (b"before", b"after")
    assert world.rows("SELECT COUNT(*) FROM payload_keys") == [(1,)]
    world.check_log()


def test_a_key_made_in_a_transaction_that_is_rolled_back_is_not_used_again(world: World) -> None:
    def refuse(_: Connection) -> None:
        raise OSError("no space left on device")

    event.listen(world.state.writer._engine, "commit", refuse, once=True)
    with pytest.raises(OSError, match="no space"):
        append(world, with_payload(b"undone"))
    (kept,) = append(world, with_payload(b"kept"))
    assert opened(world, kept) == b"kept"
    world.check_log()


def test_two_records_never_share_a_place(world: World) -> None:
    """The database says so too, whatever memory believes."""
    append(world, a_draft())
    world.state.log._durable.frontier.size = 0
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        append(world, a_draft(SECOND))
