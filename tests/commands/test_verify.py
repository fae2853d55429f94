"""`gateway verify` and `gateway-verify` as they are called: exit codes, output, what they need."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import command_line
from gateway.database_place import DATABASE
from tests import places
from tests.builders import World, a_state
from tests.trace.evidence_world import append, decision_of, entries, sign, write, write_entries

ROOT = Path(__file__).parent.parent.parent
ALONE = ("cryptography", "cffi", "_cffi_backend", "pycparser", "rfc8785")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path / "data") as world:
        append(world, 4, input=b'{"input":{}}')
        sign(world)
        yield world


def verify(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(command_line("verify"), ["verify", *map(str, words)])
    return done.exit_code, done.output


def test_the_output_is_a_line_a_check_and_a_verdict(world: World, tmp_path: Path) -> None:
    bundle = write(world, tmp_path / "bundle")
    key = world.state.checkpoints.verifier_key
    code, said = verify(bundle, "--trust-key", key)
    assert code == 0
    lines = said.splitlines()
    assert lines[0] == f"checkpoint.signature   PASS        origin {world.state.log.origin} size 8"
    assert lines[-2] == "verdict: VALID with warnings"
    assert lines[-1].startswith("What a gateway that was taken over never recorded")


def test_the_exit_code_says_which_kind_of_answer_it_is(world: World, tmp_path: Path) -> None:
    bundle = write(world, tmp_path / "bundle")
    key_file = tmp_path / "key"
    key_file.write_text(world.state.checkpoints.verifier_key + "\n")
    assert verify(bundle, "--trust-key", key_file)[0] == 0
    assert verify(bundle, "--trust-key", key_file, "--strict")[0] == 1
    assert verify(bundle, "--trust-key", key_file, "--min-size", 9)[0] == 1
    assert verify(bundle)[0] == 2
    assert verify(bundle, "--trust-key", "a+b+c")[0] == 2
    assert verify(tmp_path / "none.zip", "--trust-key", key_file)[0] == 3


def test_a_database_is_read_again(world: World, tmp_path: Path) -> None:
    code, said = verify("db", *places.named(world.state.data_dir), "--json")
    assert code == 0, said
    assert json.loads(said)["verdict"] == "VALID"
    world.state.writer.change_now(
        lambda c: c.exec_driver_sql("UPDATE trace SET tool = 'other' WHERE idx = 0").rowcount
    )
    code, said = verify("db", *places.named(world.state.data_dir / DATABASE))
    assert (code, "records.columns" in said) == (1, True)
    assert verify("db", tmp_path / "nothing")[0] == 3
    if not places.shared():  # whose database needs no name
        assert verify("db")[0] == 2


def test_what_a_bundle_says_does_not_rule_the_terminal(world: World, tmp_path: Path) -> None:
    bundle = write(world, tmp_path / "bundle")
    lines = entries(bundle)
    lines[0]["record"] = decision_of(lines[0]["record"], project="\x1b[2J")
    write_entries(bundle, lines)
    assert "\x1b" not in verify(bundle, "--trust-key", world.state.checkpoints.verifier_key)[1]


def test_the_verifier_works_where_there_is_nothing_but_two_libraries(
    world: World, tmp_path: Path
) -> None:
    """An environment of its own, with the package, `cryptography` and `rfc8785`, and no more."""
    home = tmp_path / "alone"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    for path in map(Path, sys.path):
        for name in ALONE:
            for found in path.glob(f"{name}*") if path.name == "site-packages" else ():
                copy = shutil.copytree if found.is_dir() else shutil.copy
                if not (packages / found.name).exists():
                    copy(found, packages / found.name)
    shutil.copytree(ROOT / "gateway", packages / "gateway")
    bundle = tmp_path / "evidence.zip"
    folder = write(world, tmp_path / "bundle")
    with zipfile.ZipFile(bundle, "w") as out:
        for path in folder.rglob("*"):
            out.write(path, path.relative_to(folder))
    script = "from gateway.trace.verify_command import main; main()"
    command: list[str | Path] = [home / "bin/python", "-I", "-c", script, bundle]
    key = world.state.checkpoints.verifier_key
    done = subprocess.run(
        [*command, "--trust-key", key],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "verdict: VALID with warnings" in done.stdout
    missing = subprocess.run(
        [home / "bin/python", "-I", "-c", "import orjson"], capture_output=True, check=False
    )
    assert missing.returncode == 1
    usage = subprocess.run(command, capture_output=True, check=False)
    assert usage.returncode == 2
