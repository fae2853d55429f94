"""A data directory: made once, opened by one process, its keys never replaced."""

import errno
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from gateway import keyring
from gateway.data_dir.state import NotInitialised, open_state
from gateway.keyring import KeyringFault
from gateway.registry.stop_file import NAME, StopFile, stopped
from gateway.store.database import DatabaseLocked
from tests.builders import SECRET, a_state
from tests.places import place_of


def test_a_directory_without_a_gateway_is_not_opened_by_the_way(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised, match="gateway init"), open_state(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()


@pytest.mark.sqlite("it looks at the files of the database")
def test_nothing_in_a_data_directory_can_be_read_by_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with a_state(tmp_path / "data"):
            StopFile(tmp_path / "data").write("a drill")
            paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    finally:
        os.umask(before)
    assert {"gateway.db", "gateway.db-wal", "data.key", "log.key", NAME} <= modes.keys()
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}


def test_what_was_made_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        keys = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
        caller = world.caller
    with open_state(tmp_path, place=place_of(tmp_path)) as state:
        assert state.directory.key_of(SECRET) == caller.key
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == keys


@pytest.mark.sqlite("it looks at the files of the database")
def test_a_data_directory_may_have_any_name(tmp_path: Path) -> None:
    data_dir = tmp_path / "a?b#c%20 d'é"
    with a_state(data_dir):
        assert (data_dir / "gateway.db-wal").exists()
    assert list(tmp_path.iterdir()) == [data_dir]


def test_a_second_process_is_kept_out_and_told_by_whom(tmp_path: Path) -> None:
    other = (
        "import sys; from pathlib import Path; from gateway.data_dir.state import open_state\n"
        "with open_state(Path(sys.argv[1]), create=True): pass"
    )
    with a_state(tmp_path):
        with (
            pytest.raises(DatabaseLocked, match=f"process {os.getpid()}"),
            open_state(tmp_path, place=place_of(tmp_path)),
        ):
            pass
        child = subprocess.run(
            [sys.executable, "-c", other, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "DatabaseLocked" in child.stderr
    with open_state(tmp_path, place=place_of(tmp_path)):
        pass


@pytest.mark.parametrize("name", keyring.NAMES)
def test_a_lost_key_is_never_replaced_by_a_new_one(tmp_path: Path, name: str) -> None:
    with a_state(tmp_path):
        pass
    (tmp_path / "keys" / f"{name}.key").unlink()
    with (
        pytest.raises(KeyringFault, match=f"{name}.key"),
        open_state(tmp_path, create=True, place=place_of(tmp_path)),
    ):
        pass
    assert not (tmp_path / "keys" / f"{name}.key").exists()


def test_keys_that_a_crash_left_half_made_are_completed(tmp_path: Path) -> None:
    keyring.create(tmp_path / "keys")
    kept = (tmp_path / "keys" / "data.key").read_bytes()
    (tmp_path / "keys" / "seal.key").unlink()
    with a_state(tmp_path):
        assert (tmp_path / "keys" / "data.key").read_bytes() == kept


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.write_bytes(b"short"), "5 bytes instead of 32"),
    ],
)
def test_a_key_that_others_can_read_or_that_is_no_key_is_refused(
    tmp_path: Path, spoil: object, why: str
) -> None:
    keyring.create(tmp_path)
    assert callable(spoil)
    spoil(tmp_path / "log.key")
    with pytest.raises(KeyringFault, match=why):
        keyring.load(tmp_path)


def test_a_keyring_shows_no_key(tmp_path: Path) -> None:
    keyring.create(tmp_path)
    assert repr(keyring.load(tmp_path)) == "Keyring()"


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"reason": 5}'])
def test_a_stop_file_that_is_there_stops_whatever_it_says(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    stop = StopFile(tmp_path).read()
    assert stop is not None
    assert (stop.scope, stop.project_id) == ("all", None)


@pytest.mark.parametrize(("fault", "stops"), [(errno.ENOSPC, True), (errno.EROFS, False)])
def test_on_a_full_disk_an_empty_file_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, stops: bool
) -> None:
    def write(path: Path, content: bytes) -> None:
        if content or fault != errno.ENOSPC:
            raise OSError(fault, "")
        path.touch()

    monkeypatch.setattr("gateway.registry.stop_file.write_file", write)
    stop_file = StopFile(tmp_path)
    with nullcontext() if stops else pytest.raises(OSError, match=str(fault)):
        stop_file.write("a drill")
    assert (stop_file.read() is not None) is stops


def test_a_stop_file_that_cannot_be_read_refuses_and_says_that_nobody_stopped(
    tmp_path: Path,
) -> None:
    (tmp_path / NAME).mkdir()
    stop_file = StopFile(tmp_path)
    stop = stop_file.read()
    assert stop is not None
    assert (stopped(stop.id, stop.scope).reason, stop_file.raised) == ("stop_unreadable", False)
    assert "cannot be read" in stop_file.fault


def test_a_stop_file_tells_its_reason_and_is_lifted_by_taking_it_away(tmp_path: Path) -> None:
    stop_file = StopFile(tmp_path)
    assert (stop_file.read(), stop_file.seen) == (None, None)
    stop_file.write("the building is on fire")
    stop = stop_file.read()
    assert stop is not None
    assert (stop.reason, stop_file.seen) == ("the building is on fire", stop)
    (tmp_path / NAME).unlink()
    assert (stop_file.read(), stop_file.seen) == (None, None)
