"""Checkpoints of a real log: never two truths, and a log that is not what was signed is sealed."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway.clock import Clock
from gateway.ids import new_id
from gateway.trace import checkpoint as checkpoints
from gateway.trace import note
from gateway.trace.checkpoint import Checkpoints, Signed, Signing
from gateway.trace.log import LOG_ITSELF, stored_hashes
from gateway.trace.merkle import roots
from gateway.trace.note import VerifierKey
from gateway.trace.record import Draft
from gateway.values import ProjectId
from tests import places
from tests.builders import World, a_state

pytestmark = pytest.mark.anyio


def append(world: World, count: int = 1) -> None:
    drafts = [Draft("event", new_id("evt"), ProjectId("prj_1")) for _ in range(count)]
    world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))


def sign(world: World, *, keep: bool = False) -> Signed:
    made = world.state.checkpoints
    signed = world.state.writer.change_now(lambda c: made.make(c, keep=keep))
    assert signed is not None
    made.durable(signed)
    made.publish(signed)
    return signed


def sql(world: World, statement: str, *parameters: Any) -> None:
    def run(connection: Connection) -> None:
        connection.exec_driver_sql(places.sql(statement), parameters)

    world.state.writer.change_now(run)


def logs(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT log, origin, sealed_at IS NOT NULL, sealed_reason FROM logs")


def signed_sizes(world: World) -> list[int]:
    return [row[0] for row in world.rows("SELECT size FROM checkpoints ORDER BY log, size")]


def test_a_checkpoint_is_of_all_records_and_signed_by_the_logs_key(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 300)
        signed = sign(world)
        key = VerifierKey.parse(world.state.checkpoints.verifier_key)
        opened = note.checkpoint(signed.note, key)
        assert (opened.size, opened.root) == (300, world.state.log.root())
        assert opened.origin == world.state.log.origin == key.name
        with world.state.reader.connect() as connection:
            assert checkpoints.latest(connection) == signed
            assert checkpoints.at(connection, 0, 300) == signed
            assert checkpoints.at(connection, 0, 299) is None


def test_an_empty_log_and_a_head_that_is_signed_get_no_new_checkpoint(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        assert world.state.writer.change_now(world.state.checkpoints.make) is None
        append(world)
        assert sign(world) == sign(world)
        assert signed_sizes(world) == [1]


def test_one_a_minute_stays_and_those_that_are_kept(tmp_path: Path) -> None:
    seconds = [0.0]
    with a_state(tmp_path) as world:
        world.state.log._clock = Clock(lambda: 1_800_000_000 + seconds[0])
        for second, keep in ((0, False), (1, True), (2, False), (3, False), (61, False)):
            seconds[0] = second
            append(world)
            sign(world, keep=keep)
        assert signed_sizes(world) == [2, 4, 5]


def test_an_anchors_checkpoint_names_every_log_and_every_projects_last_record(
    tmp_path: Path,
) -> None:
    with a_state(tmp_path) as world:
        append(world, 3)
        root, leaf = world.state.log.root(), world.rows("SELECT leaf FROM trace WHERE idx=2")[0][0]
        signed = world.state.writer.change_now(world.state.checkpoints.before_anchor)
        (heads,) = world.records("heads")
        assert heads["project"] == LOG_ITSELF
        assert heads["logs"] == [f"{world.state.log.origin} 3 {root.hex()}"]
        assert heads["projects"] == [f"prj_1 2 {leaf.hex()}"]
        assert signed.checkpoint.size == 4
        append(world)
        sign(world)
        assert signed_sizes(world) == [4, 5]  # within one minute: the anchored one is kept


def test_more_projects_than_a_record_holds_get_several_records(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        drafts = [Draft("event", new_id("evt"), ProjectId(new_id("prj"))) for _ in range(150)]
        world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))
        world.state.writer.change_now(world.state.checkpoints.before_anchor)
        named = [line for heads in world.records("heads") for line in heads["projects"]]
        assert len(world.records("heads")) == 3
        assert len(named) == len(set(named)) == 150
        world.check_log()


# --- what is not what was signed ---


def a_log_with_a_past(folder: Path) -> None:
    """300 records signed, 20 more that are not."""
    with a_state(folder) as world:
        append(world, 300)
        sign(world)
        append(world, 20)


def without_rows(connection: Connection) -> None:
    connection.exec_driver_sql("DELETE FROM trace WHERE idx >= 290")


def without_a_leaf(connection: Connection) -> None:
    connection.exec_driver_sql("DELETE FROM trace WHERE idx = 280")


def with_another_leaf(connection: Connection) -> None:
    connection.exec_driver_sql(places.sql("UPDATE trace SET leaf = zeroblob(32) WHERE idx = 299"))


def with_another_tile(connection: Connection) -> None:
    connection.exec_driver_sql(places.sql("UPDATE tree_tiles SET hash = zeroblob(32)"))


def with_a_forged_checkpoint(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE checkpoints SET note = replace(note, '300', '250')")


def without_what_the_file_knows(connection: Connection) -> None:
    connection.exec_driver_sql("DELETE FROM trace WHERE idx >= 290")
    connection.exec_driver_sql("DELETE FROM checkpoints")


def with_other_records_than_the_file_knows(connection: Connection) -> None:
    with_another_leaf(connection)
    connection.exec_driver_sql("DELETE FROM checkpoints")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (without_rows, "holds 290 records, the last checkpoint has signed 300"),
        (without_a_leaf, "lacks hashes"),
        (with_another_leaf, "first 300 records are not those that the last checkpoint"),
        (with_another_tile, "first 300 records are not those that the last checkpoint"),
        (with_a_forged_checkpoint, "the last checkpoint is not this log's"),
        (without_what_the_file_knows, "holds 290 records, the checkpoint file has signed 300"),
        (with_other_records_than_the_file_knows, "not those that the checkpoint file has signed"),
    ],
)
def test_a_log_that_is_not_what_was_signed_is_sealed_and_a_successor_goes_on(
    tmp_path: Path, damage: Callable[[Connection], None], why: str
) -> None:
    a_log_with_a_past(tmp_path)
    with a_state(tmp_path) as world:  # untouched, it is no other than before
        assert [row[2] for row in logs(world)] == [0]
        assert world.state.checkpoints.warnings() == {}
        world.state.writer.change_now(damage)
    with a_state(tmp_path) as world:
        (old, new) = logs(world)
        assert (old[0], old[2], new[0], new[2]) == (0, 1, 1, 0)
        assert why in old[3]
        assert new[1] == f"{old[1]}-2"
        assert why in world.state.checkpoints.warnings()["sealed log"]
        (recovery,) = world.records("recovery")
        assert (recovery["idx"], recovery["sealed"]) == (0, old[1])
        append(world, 2)
        assert sign(world).checkpoint.origin == new[1]
        sealed = world.rows("SELECT COUNT(*) FROM trace WHERE log = 0")[0][0]
        assert sealed >= 290  # kept as it was found
    with a_state(tmp_path) as world:  # the successor is a log like any other
        assert [row[2] for row in logs(world)] == [1, 0]
        assert world.state.log.size == 3
        assert "sealed log" in world.state.checkpoints.warnings()


def test_a_database_put_back_from_a_copy_is_behind_the_checkpoint_file(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    a_log_with_a_past(data)
    shutil.copytree(data, copy)
    places.copy(data, copy)
    with a_state(data) as world:
        append(world, 5)
        sign(world)
    places.copy(copy, data)
    with a_state(data) as world:
        assert "holds 320 records, the checkpoint file has signed 325" in logs(world)[0][3]


def test_the_second_successor_has_a_name_of_its_own(tmp_path: Path) -> None:
    a_log_with_a_past(tmp_path)
    for number in (0, 1):
        with a_state(tmp_path) as world:
            append(world, 2)
            sign(world)
            sql(world, "DELETE FROM trace WHERE log = ?", number)
    with a_state(tmp_path) as world:
        first = logs(world)[0][1]
        assert [row[1] for row in logs(world)] == [first, f"{first}-2", f"{first}-3"]


def test_a_database_that_falls_behind_memory_is_noticed_at_the_next_checkpoint(
    tmp_path: Path,
) -> None:
    with a_state(tmp_path) as world:
        append(world, 10)
        sign(world)
        append(world, 5)
        sql(world, "DELETE FROM trace WHERE idx >= 12")
        signed = sign(world)
        assert (signed.log, signed.checkpoint.size) == (1, 1)
        assert "holds 12 records of 15" in logs(world)[0][3]
        append(world, 2)
        assert sign(world).checkpoint.size == 3


def test_a_database_put_back_under_a_running_gateway_is_noticed_though_it_grew_again(
    tmp_path: Path,
) -> None:
    with a_state(tmp_path) as world:
        append(world, 5)
        sign(world)
        append(world, 5)
        sign(world, keep=True)
        sql(world, "DELETE FROM trace WHERE idx >= 5")
        sql(world, "DELETE FROM checkpoints WHERE size > 5")
        append(world)
        assert sign(world).log == 1
        assert "last checkpoint is of 0 records, 10 were signed" in logs(world)[0][3]


def test_another_root_for_a_signed_size_is_never_signed(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 4)
        signed = sign(world)
        world.state.log._durable.frontier.subtrees[0] = bytes(32)
        assert sign(world).log == 1
        assert "says otherwise than the tree" in logs(world)[0][3]
        with world.state.reader.connect() as connection:
            assert checkpoints.latest(connection, 0) == signed


def test_a_sealed_logs_head_stays_in_the_heads_of_its_successor(tmp_path: Path) -> None:
    a_log_with_a_past(tmp_path)
    with a_state(tmp_path) as world:
        world.state.writer.change_now(without_rows)
    with a_state(tmp_path) as world:
        append(world)
        world.state.writer.change_now(world.state.checkpoints.before_anchor)
        (heads,) = world.records("heads")
        origins = [line.split(" ")[0] for line in heads["logs"]]
        assert origins == [world.state.log.origin.removesuffix("-2"), world.state.log.origin]
        assert heads["logs"][0].split(" ")[1] == "300"


# --- the file off the database ---


def test_the_checkpoint_file_holds_notes_that_anybody_can_check(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world)
        first = sign(world)
        append(world)
        second = sign(world)
    lines = (tmp_path / "checkpoints.ndjson").read_text().splitlines()
    assert [json.loads(line)["note"] for line in lines] == [first.note, second.note]


def test_what_others_wrote_into_the_checkpoint_file_is_passed_over(tmp_path: Path) -> None:
    a_log_with_a_past(tmp_path)
    with (tmp_path / "checkpoints.ndjson").open("a") as file:
        file.write('{"note": "forged"}\n["nothing"]\nhalf a li')
    with a_state(tmp_path) as world:
        assert len(logs(world)) == 1


def test_a_checkpoint_file_that_cannot_be_written_is_told_and_stops_nobody(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        made = Checkpoints(world.state.log, world.state.keyring, tmp_path / "none" / "file")
        append(world)
        signed = world.state.writer.change_now(made.make)
        assert signed is not None
        made.publish(signed)
        assert "No such file" in made.warnings()["checkpoint file"]


async def test_the_head_is_signed_soon_after_it_grew_and_at_the_end(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        signing = Signing(world.state.writer, world.state.checkpoints)
        append(world, 3)
        task = asyncio.create_task(signing.run())
        while signed_sizes(world) != [3]:
            assert not task.done()
            await asyncio.sleep(0.02)
        append(world, 2)
        while 5 not in signed_sizes(world):
            assert not task.done()
            await asyncio.sleep(0.02)
        task.cancel()
        append(world)
        anchored = await signing.before_anchor()
        append(world)
        await signing.close()
        assert anchored.checkpoint.size == 7
        lines = (tmp_path / "checkpoints.ndjson").read_text().splitlines()
        sizes = [note.parse(json.loads(line)["note"].partition("\n\n")[0] + "\n") for line in lines]
        assert [one.size for one in sizes][-2:] == [7, 8]
        with world.state.reader.connect() as connection:
            assert roots(stored_hashes(connection, 0))(0, 7) == anchored.checkpoint.root
