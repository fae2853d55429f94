"""`gateway keys rotate`: another key in its file, on every trail, and nothing else lost."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.state import KEYS
from tests.builders import a_state


def rotate(data_dir: Path, which: str) -> Result:
    words = ["keys", "rotate", which, "--data-dir", str(data_dir), "--json"]
    return CliRunner().invoke(cli.command_line("keys"), words, catch_exceptions=False)


@pytest.mark.parametrize("which", ["bundle", "seal"])
def test_a_key_is_replaced_and_each_project_knows(tmp_path: Path, which: str) -> None:
    with a_state(tmp_path):
        pass
    before = {path.name: path.read_bytes() for path in (tmp_path / KEYS).iterdir()}
    done = rotate(tmp_path, which)
    assert (done.exit_code, json.loads(done.stdout)["key"]) == (0, which)
    after = {path.name: path.read_bytes() for path in (tmp_path / KEYS).iterdir()}
    assert [name for name in before if before[name] != after[name]] == [f"{which}.key"]
    assert (tmp_path / KEYS / f"{which}.key").stat().st_mode & 0o777 == 0o600
    with a_state(tmp_path) as world:
        [record] = world.records(kind="event")
        assert (record["event"], record["key_of"]) == ("deployment_key.rotated", which)
        world.check_log()


def test_a_key_is_not_replaced_under_a_gateway_that_runs(tmp_path: Path) -> None:
    with a_state(tmp_path):
        before = (tmp_path / KEYS / "seal.key").read_bytes()
        refused = rotate(tmp_path, "seal")
        assert (refused.exit_code, "in use" in refused.stderr) == (1, True)
        assert (tmp_path / KEYS / "seal.key").read_bytes() == before


@pytest.mark.parametrize("which", ["data", "log", "all"])
def test_what_cannot_be_replaced_is_wrong_usage(tmp_path: Path, which: str) -> None:
    assert rotate(tmp_path, which).exit_code == 2
