"""Records leave the database: nothing reads otherwise, and nothing is lost, whatever dies when."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from gateway.cold import reading
from gateway.cold.objects import ColdAway, ColdDamaged
from gateway.database_place import Place
from gateway.ids import new_id
from gateway.registry import traces
from gateway.sinks import follow
from gateway.sinks.targets import Line
from gateway.store import leases, tables
from gateway.trace.record import Draft
from gateway.values import ProjectId
from tests import places
from tests.cold.cold_world import ColdWorld, Killed, a_cold_world
from tests.trace.evidence_world import PROJECT, append, sign


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[ColdWorld]:
    with a_cold_world(tmp_path) as made:
        yield made


def test_what_was_moved_is_shown_as_before(tmp_path: Path, place: Place) -> None:
    with a_cold_world(tmp_path, place) as cold:
        calls = cold.calls()
        before = cold.seen(calls)
        assert (len(before.listed), cold.hot()) == (425, 850)
        assert cold.archive().round() == 768
        assert (cold.cold(), cold.hot()) == (768, 850 - 768)
        assert cold.seen(calls) == before
        assert {one.status for one in cold.recheck().values()} == {"PASS"}
        assert cold.recheck()["cold.objects"].detail.startswith("768 records")
        # A second round has nothing to do, and writes nothing.
        cold.objects.made.clear()
        assert (cold.archive().round(), cold.objects.made) == (0, [])


def test_the_log_goes_on_after_a_start_and_further_tiles_follow(tmp_path: Path) -> None:
    with a_cold_world(tmp_path) as cold:
        calls = cold.calls()
        cold.archive().round()
        before = cold.seen(calls)
    with a_cold_world(tmp_path) as cold:
        state = cold.world.state
        assert (state.log.size, state.checkpoints.warnings()) == (850, {})
        assert cold.seen(calls) == before
        append(cold.world, 200)
        sign(cold.world)
        append(cold.world, 1)
        assert cold.archive().round() == 256
        found = cold.recheck()
        assert {one.status for one in found.values()} == {"PASS"}
        assert found["project.sequence"].detail == "2 projects, no gap"


def test_calls_are_found_and_projects_go_on_whatever_their_ids_and_however_quiet(
    tmp_path: Path,
) -> None:
    late = f"trc_{int((time.time() - 3600) * 1000):012x}{'7' * 20}"
    strange, usual = "trc_made-elsewhere", new_id("trc")
    quiet = ProjectId("prj_quiet")

    def add(cold: ColdWorld, call: str) -> None:
        draft = Draft("outcome", new_id("evt"), quiet, {"status": "ok"}, call_id=call)
        log = cold.world.state.log
        cold.world.state.writer.change_now(lambda c: len(log.append(c, [draft])))

    with a_cold_world(tmp_path, pairs=10) as cold:
        for call in (late, strange, usual):
            add(cold, call)
        append(cold.world, 300)
        sign(cold.world)
        assert cold.archive().round() == 512
    with a_cold_world(tmp_path) as cold:
        add(cold, usual)
        with cold.world.state.reader.connect() as connection:
            found = [traces.get(connection, quiet, call) for call in (late, strange, usual)]
            assert [[row.pseq for row in rows] for rows in found] == [[0], [1], [2, 3]]
            (first, _) = found[2]
            assert [row.idx for row in traces.get(connection, quiet, first.id)] == [first.idx]
        assert cold.recheck()["project.sequence"].status == "PASS"


def test_whatever_dies_nothing_is_lost_and_the_next_round_ends_it(cold: ColdWorld) -> None:
    calls = cold.calls()
    before = cold.seen(calls)
    deaths = 0
    while True:
        cold.objects.did, cold.objects.dies_at = 0, 1 + deaths
        try:
            cold.archive().round()
            break
        except Killed:
            deaths += 1
        finally:
            cold.objects.dies_at = 1 << 30
        if deaths % 8 == 0:
            assert {one.status for one in cold.recheck().values()} == {"PASS"}
    # Each of 3 tiles has 2 objects written, then read back; then the tree's edge and its head.
    assert deaths > 20
    assert (cold.cold(), cold.hot()) == (768, 82)
    assert cold.seen(calls) == before
    assert {one.status for one in cold.recheck().values()} == {"PASS"}


def test_between_two_tiles_a_crash_leaves_one_here_and_one_there(
    cold: ColdWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = cold.calls()
    before = cold.seen(calls)
    archive = cold.archive()
    change, count = archive.writer.change_now, 0

    def dying(fn: object) -> object:
        nonlocal count
        count += 1
        if count > 3:  # the lease is taken, prolonged, and one tile is gone
            raise Killed
        return change(fn)  # type: ignore[arg-type]

    monkeypatch.setattr(archive.writer, "change_now", dying)
    with pytest.raises(Killed):
        archive.round()
    monkeypatch.undo()
    assert cold.cold() == 256
    assert cold.seen(calls) == before
    # Its lease is still there; once it has run out another gateway goes on.
    with pytest.raises(leases.LeaseLost):
        cold.archive().round()
    other = cold.archive()
    other.now = lambda: "2099-01-01T00:00:00.000000Z"
    assert other.round() == 512
    assert cold.seen(calls) == before


@pytest.mark.parametrize("kind", ["entries", "0"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_what_was_written_in_part_is_told_before_anything_is_dropped(
    cold: ColdWorld, kind: str, damage: str
) -> None:
    def alter(name: str, content: bytes) -> bytes:
        if name != f"{cold.origin}/tile/{kind}/001":
            return content
        other = content.replace(b"ALLOW", b"DENY!") if kind == "entries" else content[::-1]
        return {"cut": content[:-1], "other": other, "empty": b""}[damage]

    cold.objects.alter = alter
    with pytest.raises(ColdDamaged, match=f"{cold.origin}/tile/{kind}/001"):
        cold.archive().round()
    assert (cold.cold(), cold.hot()) == (0, 850)
    cold.objects.alter = lambda name, content: content
    # It lies there, and is nobody's: it is named until somebody takes it away.
    with pytest.raises(ColdDamaged, match="take it away"):
        cold.archive().round()
    (cold.folder / cold.origin / "tile" / kind / "001").unlink()
    assert cold.archive().round() == 768


def test_records_that_are_not_what_was_hashed_stay(cold: ColdWorld) -> None:
    [(body,)] = cold.world.rows("SELECT body FROM trace WHERE idx = 300")
    sql, other = places.sql("UPDATE trace SET body = ? WHERE idx = 300"), bytes(body)
    other = other.replace(b"ALLOW", b"DENY")
    cold.world.state.writer.change_now(lambda c: c.exec_driver_sql(sql, (other,)).rowcount)
    with pytest.raises(ColdDamaged, match="records 256 to 511 of log 0 are not what was hashed"):
        cold.archive().round()
    assert (cold.cold(), cold.hot()) == (0, 850)


def test_only_what_is_old_and_attested_goes(cold: ColdWorld) -> None:
    archive = cold.archive()
    archive.after_days = 2
    assert archive.round() == 0
    archive.after_days = 0

    def can_go() -> list[tuple[int, int]]:
        return [(one.head.size, one.end) for one in archive.waiting()]

    assert can_go() == [(850, 3)]
    checkpoints, execute = cold.world.state.checkpoints, cold.world.state.writer.change_now
    execute(lambda c: checkpoints.make(c, keep=True))  # as for an anchor: it is not thinned
    append(cold.world, 300)
    assert can_go() == [(850, 3)]  # of the rest nothing is signed
    sign(cold.world)
    assert can_go() == [(1450, 5)]
    execute(lambda c: c.execute(insert(tables.anchor_backends), _BACKEND).rowcount)
    assert can_go() == []  # it is to be anchored, and is not yet
    execute(lambda c: c.execute(insert(tables.anchors), _ANCHOR).rowcount)
    assert can_go() == [(850, 3)]
    archive.sinks = ["syslog://127.0.0.1"]
    assert can_go() == []  # a sink has had none of it
    cursor = {"name": "syslog://127.0.0.1", "log": 0, "idx": 900}
    execute(lambda c: c.execute(insert(tables.sink_cursors), cursor).rowcount)
    assert can_go() == [(850, 3)]
    execute(lambda c: c.execute(update(tables.sink_cursors).values(idx=800)).rowcount)
    assert can_go() == [(850, 3)]  # the tile that it is in stays anyway
    execute(lambda c: c.execute(update(tables.sink_cursors).values(idx=700)).rowcount)
    assert can_go() == []  # no head was signed between 700 and the next tile


_BACKEND = {"name": "file", "identity": {}, "enabled": True, "condition": "ok"}
_BACKEND |= {"detail": "", "since": "2026-01-01T00:00:00.000000Z"}
_ANCHOR = {"id": "anc_1", "backend": "file", "log": 0, "origin": "o", "size": 1000, "root": b""}
_ANCHOR |= {"note": "", "state": "final", "created_at": "2026-01-01T00:00:00.000000Z"}


def test_a_sink_that_is_new_begins_with_the_first_record(cold: ColdWorld) -> None:
    with cold.world.state.reader.connect() as connection:
        before = follow.lines_from(connection, 0, 0)
        archive = cold.archive()
        assert archive.round() == 768
    with cold.world.state.reader.connect() as connection:
        told: list[Line] = []
        while lines := follow.lines_from(connection, 0, len(told)):
            told += lines
    assert [line.idx for line in told] == list(range(850))
    assert told[: len(before)] == list(before)


def test_who_reads_old_records_leaves_connections_to_others(
    cold: ColdWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = cold.calls()
    cold.archive().round()
    monkeypatch.setattr(reading, "_PATIENCE_SECONDS", 0.01)
    store = cold.world.state.cold
    assert store is not None
    with contextlib.ExitStack() as others, cold.world.state.reader.connect() as connection:
        for _ in range(4):
            others.enter_context(store.turn())
        with pytest.raises(ColdAway, match="cold storage is slow"):
            traces.get(connection, PROJECT, calls[0])
        others.close()
        assert traces.get(connection, PROJECT, calls[0])


def test_another_folder_than_before_is_not_gone_on_in(cold: ColdWorld, tmp_path: Path) -> None:
    cold.archive().round()
    append(cold.world, 200)
    sign(cold.world)
    append(cold.world, 1)
    for path in cold.folder.iterdir():
        path.rename(tmp_path / "elsewhere")
    with pytest.raises(ColdDamaged, match="is missing"):
        cold.archive().round()
    assert list(cold.folder.iterdir()) == []


@pytest.mark.anyio
async def test_a_gateway_moves_by_itself_and_says_what_keeps_it(
    cold: ColdWorld, tmp_path: Path
) -> None:
    archive = cold.archive()
    cold.folder.rename(tmp_path / "away")
    running = asyncio.create_task(archive.run())
    await until(lambda: bool(archive.fault))
    assert list(archive.warnings()) == ["cold storage"]
    assert "No such file or directory" in archive.fault
    running.cancel()
    await asyncio.wait([running])
    (tmp_path / "away").rename(cold.folder)
    running = asyncio.create_task(cold.archive().run())
    await until(lambda: cold.cold() == 768)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert cold.recheck()["cold.objects"].status == "PASS"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is another's doing
            await asyncio.sleep(0.05)
