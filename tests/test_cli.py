"""The command line: exit codes, which stream holds what, and that each command explains itself."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import update
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.commands import serve
from gateway.data_dir.first_start import let_in
from gateway.data_dir.state import open_state
from gateway.registry.core import Actor, Change
from gateway.registry.faults import Conflict
from gateway.store import tables
from gateway.store.database import DataDirUnusable, using
from tests.end_to_end.demonstration import need_opa
from tests.places import place_of


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def gateway(*words: str | Path) -> Result:
    command_line = cli.command_line(*cli.COMMANDS)
    # What is not foreseen must not pass for exit code 1.
    return CliRunner().invoke(command_line, [str(word) for word in words], catch_exceptions=False)


def every_command() -> list[list[str]]:
    """The words of each command, read from what is registered."""

    def below(command: object, words: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            return [words]
        return [found for name in inner for found in below(inner[name], [*words, name])]

    return below(cli.as_click(*cli.COMMANDS), [])


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_explains_itself(words: list[str]) -> None:
    result = gateway(*words, "--help")
    assert result.exit_code == 0
    assert "Usage: gateway" in result.stdout


def test_the_table_of_modules_names_what_they_define() -> None:
    assert {words[0] for words in every_command()} == set(cli.COMMANDS)


def test_a_wrong_word_is_wrong_usage() -> None:
    assert gateway("no-such-command").exit_code == 2
    assert gateway("project", "create").exit_code == 2
    assert gateway("serve", "--port", "99999").exit_code == 2


def test_init_makes_a_directory_that_only_its_owner_reads(tmp_path: Path) -> None:
    result = gateway("init", "--data-dir", tmp_path / "d", "--owner", "Ada", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["admin_key"].startswith("gwa_")
    assert told["slug"] == "default"
    assert told["user"] == "Ada"
    assert len(told["password"]) == 20
    modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "d").rglob("*")}
    assert {"gateway.db", "data.key", "log.key", "bundle.key", "seal.key"} <= set(modes)
    assert set(modes.values()) == {0}
    assert told["admin_key"].encode() not in (tmp_path / "d" / "gateway.db").read_bytes()


def test_init_never_overwrites(tmp_path: Path) -> None:
    assert gateway("init", "--data-dir", tmp_path).exit_code == 0
    keys = {path: path.read_bytes() for path in tmp_path.rglob("*.key")}
    again = gateway("init", "--data-dir", tmp_path)
    assert again.exit_code == 1
    assert again.stdout == ""
    assert "gateway project create" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.key")} == keys


def test_init_takes_the_first_admin_key_from_the_environment_and_does_not_print_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "gwa_" + "s" * 40
    monkeypatch.setenv("GATEWAY_ADMIN_KEY", secret)
    place = place_of(tmp_path)
    made = gateway("init", "--data-dir", tmp_path, "--json")
    assert made.exit_code == 0, made.stderr
    assert secret not in made.stdout + made.stderr
    assert "password" not in json.loads(made.stdout)
    with open_state(tmp_path, place=place) as state:
        key = state.directory.key_of(secret)
    assert key is not None
    assert key.role == "admin"
    # It is the first admin's only: a second project gets a key of its own.
    second = json.loads(gateway("project", "create", "B", "--data-dir", tmp_path, "--json").stdout)
    assert second["admin_key"].startswith("gwa_")
    assert second["admin_key"] != secret


def test_the_admin_key_of_the_environment_lets_in_only_while_nobody_is_an_admin(
    tmp_path: Path,
) -> None:
    first, second = "gwa_" + "s" * 40, "gwa_" + "t" * 40
    place = place_of(tmp_path)
    gateway("init", "--data-dir", tmp_path, "--no-user")
    with open_state(tmp_path, place=place) as state:
        (view,) = state.directory.projects()
        let_in(state, SecretStr(first))
        assert state.directory.key_of(first) is None

        def lapse(change: Change) -> None:
            change.connection.execute(update(tables.keys).values(expires_at="2026-01-01"))
            change.record("key.lapsed", "test")

        by = Actor.operator(view.project.id)
        state.registry.change_now(by, lapse)
        let_in(state, None)
        let_in(state, SecretStr(first))
        key = state.directory.key_of(first)
        assert key is not None
        assert (key.role, key.project_id) == ("admin", view.project.id)
        let_in(state, SecretStr(second))
        assert state.directory.key_of(second) is None
        # What was once revoked, or ran out, does not come back by itself.
        state.registry.change_now(by, lapse)
        with pytest.raises(Conflict):
            let_in(state, SecretStr(first))


def test_a_project_is_added_beside_the_first(tmp_path: Path) -> None:
    gateway("init", "--data-dir", tmp_path)
    added = gateway("project", "create", "Sales & CRM", "--data-dir", tmp_path, "--json")
    assert json.loads(added.stdout)["slug"] == "sales_crm"
    twice = gateway("project", "create", "Sales CRM", "--data-dir", tmp_path)
    assert twice.exit_code == 1
    assert "sales_crm" in twice.stderr


def test_a_name_that_gives_no_slug_is_wrong_usage(tmp_path: Path) -> None:
    gateway("init", "--data-dir", tmp_path)
    assert gateway("project", "create", "2026", "--data-dir", tmp_path).exit_code == 2


def test_a_project_needs_a_directory_that_was_initialised(tmp_path: Path) -> None:
    result = gateway("project", "create", "X", "--data-dir", tmp_path / "empty")
    assert result.exit_code == 1
    assert "gateway init" in result.stderr


def test_faulty_settings_are_told_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PORTT", "1")
    monkeypatch.setenv("GATEWAY_LOG_LEVEL", "loud")
    result = gateway("serve", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert "did you mean GATEWAY_PORT?" in result.stderr


@pytest.mark.parametrize("in_the_way", ["gateway.lock", "gateway.db-wal"])
@pytest.mark.sqlite("its files are in the directory")
def test_a_file_that_may_not_be_used_is_named(tmp_path: Path, in_the_way: str) -> None:
    assert gateway("init", "--data-dir", tmp_path).exit_code == 0
    file = tmp_path / in_the_way
    file.unlink(missing_ok=True)
    file.mkdir()  # who runs tests as root may use every file
    result = gateway("serve", "--data-dir", tmp_path)
    assert result.exit_code == 1
    advice = "name another data directory"
    assert result.stderr == f"gateway: cannot use {file}: Is a directory; {advice}\n"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = gateway("init", "--data-dir", tmp_path / "file" / "d")
    assert result.exit_code == 1
    assert f"cannot use {tmp_path}/file/d: Not a directory" in result.stderr


def test_what_the_system_forbids_is_told_as_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/opa/opa.sock")

    monkeypatch.setattr(serve, "run", forbidden)
    result = gateway("serve", "--data-dir", tmp_path)
    assert result.exit_code == 1
    told = "gateway: cannot use /data/opa/opa.sock: Permission denied; run as its owner"
    assert result.stderr.startswith(told)


def test_a_file_that_cannot_be_written_is_named_with_advice(tmp_path: Path) -> None:
    output = tmp_path / "none" / "openapi.json"
    result = gateway("openapi", "-o", output)
    assert result.exit_code == 1
    told = f"gateway: cannot use {output}: No such file or directory; name another path\n"
    assert result.stderr == told


def test_who_may_not_use_a_directory_is_told_who_may(tmp_path: Path) -> None:
    advice = "run as its owner, give it to the user that runs this"
    with pytest.raises(DataDirUnusable, match=advice), using(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))


def test_serve_needs_a_directory_that_was_initialised(tmp_path: Path) -> None:
    need_opa()
    result = gateway("serve", "--data-dir", tmp_path)
    assert result.exit_code == 1
    assert "gateway init" in result.stderr


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "opa", "install", "--nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_the_description_of_the_api_is_json() -> None:
    result = gateway("openapi")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["openapi"].startswith("3.1")
