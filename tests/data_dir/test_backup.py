"""A copy of a data directory that is being written to, and what is restored from it."""

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.data_dir.backup import LOG_KEY, MANIFEST, BackupRefused, back_up
from gateway.data_dir.state import NotInitialised, open_state
from gateway.ids import new_id
from gateway.keyring import KeyringFault
from gateway.registry import traces
from gateway.store import tables
from gateway.trace.log import stored_hashes
from gateway.trace.merkle import leaf_hash, roots
from gateway.trace.record import Draft
from gateway.values import ProjectId
from tests.builders import World, a_state
from tests.test_cli import gateway

pytestmark = pytest.mark.sqlite("it copies the database's file")


def append(world: World, count: int = 1) -> None:
    drafts = [
        Draft("event", new_id("evt"), ProjectId("prj_1"), payloads={"why": b"a reason"})
        for _ in range(count)
    ]
    world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))


def test_a_copy_made_while_records_are_written_is_a_whole_log(tmp_path: Path) -> None:
    ended, begun = threading.Event(), threading.Event()

    def write(world: World) -> None:
        while not ended.is_set():
            append(world, 20)
            begun.set()

    with a_state(tmp_path / "data") as world:
        append(world, 500)
        writing = threading.Thread(target=write, args=(world,))
        writing.start()
        try:
            assert begun.wait(60)
            copied = back_up(tmp_path / "data", tmp_path / "copy", log_key=True)
        finally:
            ended.set()
            writing.join()
        assert 500 < copied.records <= world.state.log.size
        there = {row[0]: row[1] for row in world.rows("SELECT idx, leaf FROM trace")}
    with open_state(tmp_path / "copy") as restored:
        # Opening holds the log against its checkpoints, and would have sealed it.
        assert restored.checkpoints.warnings() == {}
        read = restored.registry.read_now
        rows = read(lambda c: c.exec_driver_sql("SELECT idx, body, leaf FROM trace").all())
        assert len(rows) == restored.log.size >= copied.records
        assert all(leaf_hash(row.body) == row.leaf for row in rows)
        assert all(there.get(row.idx, row.leaf) == row.leaf for row in rows)
        size = restored.log.size
        assert read(lambda c: roots(stored_hashes(c, 0))(0, size)) == restored.log.root()


def test_the_logs_key_stays_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    with a_state(tmp_path / "data"):
        without = back_up(tmp_path / "data", tmp_path / "without")
        back_up(tmp_path / "data", tmp_path / "with", log_key=True)
    key = (tmp_path / "data" / "keys" / "log.key").read_bytes()
    assert not without.log_key
    assert all(key not in path.read_bytes() for path in files(tmp_path / "without"))
    assert (tmp_path / "with" / "keys" / "log.key").read_bytes() == key
    with pytest.raises(KeyringFault, match="log.key"), open_state(tmp_path / "without"):
        pass
    shutil.copy(tmp_path / "data" / "keys" / "log.key", tmp_path / "without" / "keys")
    with open_state(tmp_path / "without") as restored:
        assert restored.checkpoints.warnings() == {}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_nobody_else_can_read_a_copy(tmp_path: Path) -> None:
    with a_state(tmp_path / "data"):
        back_up(tmp_path / "data", tmp_path / "copy")
    paths = [tmp_path / "copy", *(tmp_path / "copy").rglob("*")]
    assert [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_payloads_can_be_opened_in_what_was_restored(tmp_path: Path) -> None:
    with a_state(tmp_path / "data") as world:
        append(world)
        back_up(tmp_path / "data", tmp_path / "copy", log_key=True)
    with open_state(tmp_path / "copy") as restored:
        row = restored.registry.read_now(
            lambda c: c.execute(
                select(tables.trace).order_by(tables.trace.c.idx.desc()).limit(1)
            ).one()
        )
        opened = restored.registry.read_now(
            lambda c: traces.open_payloads(c, restored.keyring, row)
        )
        assert opened["why"].value == "a reason"


def test_policy_bundles_that_records_name_come_along(tmp_path: Path) -> None:
    with a_state(tmp_path / "data"):
        (tmp_path / "data" / "bundles").mkdir()
        (tmp_path / "data" / "bundles" / "sha256-1.tar.gz").write_bytes(b"a bundle")
        assert back_up(tmp_path / "data", tmp_path / "copy").bundles == 1
    assert (tmp_path / "copy" / "bundles" / "sha256-1.tar.gz").read_bytes() == b"a bundle"


def test_a_folder_that_is_there_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with a_state(tmp_path / "data"), pytest.raises(BackupRefused, match="new folder"):
        back_up(tmp_path / "data", tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_copy_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with a_state(tmp_path / "data"):
        (tmp_path / "data" / "keys" / "seal.key").unlink()
        with pytest.raises(BackupRefused, match=r"seal\.key"):
            back_up(tmp_path / "data", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    with pytest.raises(NotInitialised):
        back_up(tmp_path / "none", tmp_path / "copy")


def test_the_command_tells_what_it_made_and_what_it_left_out(tmp_path: Path) -> None:
    with a_state(tmp_path / "data") as world:
        append(world, 3)
        told = gateway("backup", tmp_path / "copy", "--data-dir", tmp_path / "data")
        again = gateway("backup", tmp_path / "copy", "--data-dir", tmp_path / "data")
    assert "log.key is not" in told.stdout
    assert again.exit_code == 1
    manifest = json.loads((tmp_path / "copy" / MANIFEST).read_text())
    assert manifest["records"] >= 3
    assert manifest["log_key"] is False
    assert LOG_KEY == "log"
