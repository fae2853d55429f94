"""`gateway keys rotate`: another key in its file, on every trail, and nothing else lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import LargeBinary, insert, update
from typer.testing import CliRunner, Result

from gateway import cli, keyring
from gateway.data_dir.state import KEYS
from gateway.database_place import Place
from gateway.keyring import decrypt, encrypt
from gateway.registry.core import Change
from gateway.registry.rewrapping import SEALED
from gateway.store import tables
from tests.builders import World, a_state
from tests.in_band.test_tasks import BY

ALL = ("data", "log", "bundle", "seal")


@pytest.fixture(autouse=True)
def the_place_is_set(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(place, str):
        monkeypatch.setenv("GATEWAY_DATABASE_URL", place)


def rotate(data_dir: Path, which: str) -> Result:
    words = ["keys", "rotate", which, "--data-dir", str(data_dir), "--json"]
    return CliRunner().invoke(cli.command_line("keys"), words, catch_exceptions=False)


def key_files(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data_dir / KEYS).iterdir()}


@pytest.mark.parametrize("which", ALL)
def test_a_key_is_replaced_and_each_project_knows(tmp_path: Path, place: Place, which: str) -> None:
    with a_state(tmp_path, place):
        pass
    before = key_files(tmp_path)
    done = rotate(tmp_path, which)
    assert (done.exit_code, json.loads(done.stdout)["key"]) == (0, which)
    after = key_files(tmp_path)
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == [f"{which}.key"]
    assert (tmp_path / KEYS / f"{which}.key").stat().st_mode & 0o777 == 0o600
    with a_state(tmp_path, place) as world:
        [record] = world.records(kind="event")
        assert (record["event"], record["key_of"]) == ("deployment_key.rotated", which)
        world.check_log()


def test_a_key_is_not_replaced_under_a_gateway_that_runs(tmp_path: Path, place: Place) -> None:
    with a_state(tmp_path, place):
        before = key_files(tmp_path)
        refused = rotate(tmp_path, "data")
        assert (refused.exit_code, "in use" in refused.stderr) == (1, True)
        assert key_files(tmp_path) == before


def test_a_key_is_not_replaced_beside_another_gateway_on_the_same_database(
    tmp_path: Path, place: Place
) -> None:
    with a_state(tmp_path, place) as world:
        other = {"slot": 7, "holder": "gw_other", "epoch": 1, "until": "2999-01-01"}
        world.change(lambda c: c.execute(insert(tables.log_slots).values(**other)))
    before = key_files(tmp_path)
    refused = rotate(tmp_path, "log")
    assert (refused.exit_code, "1 other gateways" in refused.stderr) == (1, True)
    assert key_files(tmp_path) == before


def test_what_cannot_be_replaced_is_wrong_usage(tmp_path: Path) -> None:
    assert rotate(tmp_path, "all").exit_code == 2


# --- the data key ---


def sealed_columns() -> set[str]:
    """By what columns are called; payloads are sealed with the keys of their months."""
    return {
        f"{table.name}.{column.name}"
        for table in tables.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
        and (column.name.endswith("_sealed") or column.name == "wrapped")
    }


def test_every_column_that_the_data_key_seals_is_sealed_anew() -> None:
    assert {f"{one.table.name}.{one.column.name}" for one in SEALED} == sealed_columns()


def _value(column: Any, name: str) -> Any:
    if column.nullable or column.server_default is not None:
        return None
    kinds = {"INTEGER": 1, "BOOLEAN": False, "JSON": []}
    return kinds.get(str(column.type), f"{name}-1")


def something_sealed(world: World) -> dict[str, bytes]:
    """A value in every sealed column, and a decision with its input; the values by column."""
    values: dict[str, bytes] = {}
    key = world.state.keyring.data

    def put(change: Change) -> None:
        connection = change.connection
        for table in {one.table for one in SEALED} - {tables.servers, tables.payload_keys}:
            row = {c.name: _value(c, c.name) for c in table.columns}
            row = {name: value for name, value in row.items() if value is not None}
            row |= {"project_id": "prj_1"} if "project_id" in table.c else {}
            row |= {"server_id": "srv_1", "key_id": "key_1"}
            if table is tables.extensions:
                row["id"] = "key_1"
            row = {name: value for name, value in row.items() if name in table.c}
            made = type("Row", (), row)()
            for one in (one for one in SEALED if one.table is table):
                name = f"{table.name}.{one.column.name}"
                values[name] = name.encode()
                row[one.column.name] = encrypt(key, values[name], one.context(made))
            connection.execute(insert(table).values(**row))
        credential = encrypt(key, b'[["authorization","Bearer x"]]', b"srv_1")
        connection.execute(update(tables.servers).values(auth_sealed=credential))
        values["servers.auth_sealed"] = b'[["authorization","Bearer x"]]'
        change.record("test.sealed", "test", reason="a payload")

    world.state.registry.change_now(BY, put)
    return values


def opened(world: World) -> dict[str, bytes]:
    values = {}
    with world.state.reader.connect() as connection:
        for one in SEALED:
            for row in connection.execute(one.table.select()):
                sealed = getattr(row, one.column.name)
                if sealed:
                    name = f"{one.table.name}.{one.column.name}"
                    values[name] = decrypt(world.state.keyring.data, sealed, one.context(row))
    return values


def test_what_the_old_data_key_sealed_the_new_one_opens_and_the_old_does_not(
    tmp_path: Path, place: Place
) -> None:
    with a_state(tmp_path, place) as world:
        values = something_sealed(world)
    old = AESGCM((tmp_path / KEYS / "data.key").read_bytes())
    assert rotate(tmp_path, "data").exit_code == 0
    with a_state(tmp_path, place) as world:
        found = opened(world)
        assert {name: found[name] for name in values} == values
        assert "payload_keys.wrapped" in found
        with world.state.reader.connect() as connection:
            for one in SEALED:
                for row in connection.execute(one.table.select()):
                    if sealed := getattr(row, one.column.name):
                        with pytest.raises(InvalidTag):
                            decrypt(old, sealed, one.context(row))


# --- cut short ---

KILLED = """
import os, signal, sys
from gateway import cli, keyring
from gateway.commands import keys

step, which, data_dir = sys.argv[1:]

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

turn = keys._TURN[which]

def turned_and_killed(state, following):
    turn(state, following)
    killed()

if step == "staged":
    keys._record = killed
elif step == "recorded":
    keys._TURN[which] = killed
elif step == "turned":
    keys._TURN[which] = turned_and_killed
else:
    followed = keyring.follow
    keyring.follow = lambda *a: (followed(*a), killed())
cli.command_line("keys")(["keys", "rotate", which, "--data-dir", data_dir])
"""


@pytest.mark.parametrize("step", ["staged", "recorded", "turned", "followed"])
@pytest.mark.parametrize("which", ["data", "log"])
def test_a_rotation_that_is_killed_loses_nothing_and_is_ended_by_the_same_command(
    tmp_path: Path, place: Place, which: str, step: str
) -> None:
    data = tmp_path
    with a_state(data, place) as world:
        values = something_sealed(world)
        world.state.writer.change_now(world.state.checkpoints.make)
    before = (data / KEYS / f"{which}.key").read_bytes()
    command = [sys.executable, "-c", KILLED, step, which, str(data)]
    killed = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr
    staged = keyring.staged(data / KEYS)
    assert staged == ([] if step == "followed" else [which])
    # A gateway runs meanwhile, and writes with the key that is still the key.
    with a_state(data, place) as world:
        assert opened(world).items() >= values.items()
        assert world.state.checkpoints.warnings() == {}
        world.state.registry.change_now(BY, lambda ch: ch.record("test.meanwhile", "test"))
        world.state.writer.change_now(world.state.checkpoints.make)
    following = (
        (data / KEYS / f"{which}.next.key").read_bytes()
        if staged
        else (data / KEYS / f"{which}.key").read_bytes()
    )
    if staged:
        assert rotate(data, which).exit_code == 0
    assert (data / KEYS / f"{which}.key").read_bytes() == following != before
    assert keyring.staged(data / KEYS) == []
    with a_state(data, place) as world:
        assert opened(world).items() >= values.items()
        assert world.state.checkpoints.warnings() == {}
        world.state.writer.change_now(world.state.checkpoints.make)
        world.check_log()
