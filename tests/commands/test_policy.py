"""`gateway policy` at the command line: exit codes, and what a script reads."""

import json
from pathlib import Path

import pytest

from tests import places
from tests.builders import TOOL, a_state
from tests.end_to_end.demonstration import need_opa
from tests.test_cli import _no_settings_of_this_machine as _no_settings
from tests.test_cli import gateway

__all__ = ["_no_settings"]


@pytest.fixture(autouse=True)
def _opa() -> None:
    need_opa()


def test_a_policy_is_begun_checked_tested_and_built(tmp_path: Path) -> None:
    made = gateway("policy", "new", "exports", "--route", "tool/export", "--dir", tmp_path)
    assert made.exit_code == 0, made.stderr
    assert all(Path(line).is_file() for line in made.stdout.splitlines())
    assert gateway("policy", "check", tmp_path).exit_code == 0
    tested = gateway("policy", "test", "--coverage", "--threshold", "100", tmp_path)
    assert (tested.exit_code, tested.stdout.splitlines()[-1]) == (0, "4 passed, 0 failed")
    output = tmp_path / "out.tar.gz"
    words = ("policy", "build", tmp_path, "-o", output, "--json", "--data-dir", tmp_path / "none")
    built = [json.loads(gateway(*words).stdout) for _ in range(2)]
    assert built[0] == built[1]
    assert output.stat().st_size > 0


def test_a_flawed_policy_is_told_by_place_and_ends_with_1(tmp_path: Path) -> None:
    gateway("policy", "new", "p", "--dir", tmp_path)
    policy = tmp_path / "all" / "p" / "p.rego"
    text = policy.read_text()
    policy.write_text(
        text.replace("not is_boolean(input.arguments.dry_run)", "input.arguments.n > 1")
    )
    told = gateway("policy", "check", tmp_path)
    assert told.exit_code == 1
    line = 1 + policy.read_text().splitlines().index("\tinput.arguments.n > 1")
    assert told.stdout.startswith(f"{policy}:{line}: error: input.arguments.n may be missing")
    [flaw] = json.loads(gateway("policy", "check", tmp_path, "--json").stdout)["flaws"]
    assert (flaw["rule"], flaw["line"], flaw["level"]) == ("unchecked-number", line, "error")
    assert gateway("policy", "test", tmp_path).exit_code == 1


def test_a_warning_alone_ends_with_0(tmp_path: Path) -> None:
    gateway("policy", "new", "p", "--dir", tmp_path)
    policy = tmp_path / "all" / "p" / "p.rego"
    policy.write_text(policy.read_text().replace('"REQUIRE_APPROVAL"', '"ALLOW"'))
    told = gateway("policy", "check", tmp_path)
    assert told.exit_code == 0
    assert "warning: an ALLOW of the organisation has no effect" in told.stdout


def test_a_folder_without_a_policy_cannot_be_told_of(tmp_path: Path) -> None:
    told = gateway("policy", "check", tmp_path)
    assert told.exit_code == 3
    assert f"no .rego file in {tmp_path}: name the folder" in told.stderr
    output = tmp_path / "bundle.tar.gz"
    built = gateway("policy", "build", tmp_path, "-o", output, "--data-dir", tmp_path / "none")
    assert (built.exit_code, built.stderr) == (1, told.stderr)
    assert not output.exists()


def test_folders_are_those_of_the_settings_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_POLICY_DIRS", str(tmp_path))
    assert gateway("policy", "new", "p").exit_code == 0
    assert (tmp_path / "all" / "p" / "p.rego").is_file()
    assert gateway("policy", "check").exit_code == 0


def test_without_opa_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway("policy", "new", "p", "--dir", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GATEWAY_TOOLS_DIR", str(tmp_path / "tools"))
    for words in (("check", tmp_path), ("test", tmp_path), ("build", tmp_path)):
        assert gateway("policy", *words).exit_code == 3


def test_no_test_at_all_and_too_few_end_with_1(tmp_path: Path) -> None:
    assert gateway("policy", "test", tmp_path).exit_code == 1
    gateway("policy", "new", "p", "--dir", tmp_path)
    tests = tmp_path / "all" / "p" / "p_test.rego"
    text = tests.read_text()
    tests.write_text(text[: text.index("test_what_says_neither")])
    assert gateway("policy", "test", tmp_path).exit_code == 0
    few = gateway("policy", "test", tmp_path, "--threshold", "100")
    assert few.exit_code == 1
    assert "less than 100 %" in few.stderr


def test_wrong_words_end_with_2_and_refused_ones_with_1(tmp_path: Path) -> None:
    assert gateway("policy", "check", tmp_path / "missing").exit_code == 2
    assert gateway("policy", "replay", "--since", "yesterday").exit_code == 2
    assert gateway("policy", "new", "Bad Name", "--dir", tmp_path).exit_code == 1
    assert gateway("policy", "new", "p", "--route", "x", "--dir", tmp_path).exit_code == 1


SCHEMA = {"type": "object", "properties": {"limit": {"type": "integer"}}}


def test_a_misspelt_argument_is_found_by_the_tools_schema(tmp_path: Path) -> None:
    gateway("policy", "new", "rows", "--route", "tool/export", "--dir", tmp_path)
    [policy] = tmp_path.rglob("rows.rego")
    text = policy.read_text()
    text = text.replace(
        "#   - input: schema.input",
        "#   - input: schema.input\n#   - input.arguments: schema.tools.crm.export",
    )
    policy.write_text(text.replace("input.arguments.dry_run", "input.arguments.limt"))
    told = gateway("policy", "check", tmp_path)
    assert told.exit_code == 1
    assert "undefined schema" in told.stdout
    schema = tmp_path / "schemas" / "tools" / "crm" / "export.json"
    schema.parent.mkdir(parents=True)
    schema.write_text(json.dumps(SCHEMA))
    told = gateway("policy", "check", tmp_path)
    assert told.exit_code == 1
    assert "undefined ref: input.arguments.limt" in told.stdout
    built = gateway("policy", "build", tmp_path, "--data-dir", tmp_path / "none")
    assert "undefined ref: input.arguments.limt" in built.stderr
    schema.write_text(json.dumps({**SCHEMA, "properties": {"limt": {"$ref": "http://x/y"}}}))
    output = tmp_path / "b.tar.gz"
    words = ("policy", "build", tmp_path, "-o", output, "--data-dir", tmp_path / "none")
    assert gateway(*words).exit_code == 0
    schema.write_text("{")
    assert "is no JSON schema" in gateway(*words).stderr


def test_the_schemas_of_scanned_tools_are_written_into_the_folder(tmp_path: Path) -> None:
    with a_state(tmp_path / "data"):
        pass
    words = ("policy", "schemas", "--dir", tmp_path / "policies", "--data-dir", tmp_path / "data")
    [written] = gateway(*words).stdout.splitlines()
    assert written.endswith(f"/schemas/tools/crm/{TOOL}.json")
    assert json.loads(Path(written).read_text())["type"] == "object"
    [file] = json.loads(gateway(*words, "--json").stdout)["files"]
    assert file == written
    told = gateway(*words[:-1], tmp_path / "nowhere")
    assert told.exit_code == 3
    assert ("run `gateway init`" if places.shared() else "holds no gateway") in told.stderr
