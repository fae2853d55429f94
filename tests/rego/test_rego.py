"""What a pull request to Rego must pass: format, strict check, tests with whole coverage."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.rego.conftest import REGO, ROOT

FOLDERS = ["rego", "connector_templates"]
PAIRS = "tests/rego/pairs"
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.rego"))
    if not path.name.endswith("_test.rego")
]
CHECK = ["--strict", "--schema", "rego/schemas", "--capabilities", "rego/capabilities.json"]


def run(opa: str, *arguments: str) -> str:
    """What `opa` prints; fails the test, with its complaint, when it exits other than 0."""
    done = subprocess.run([opa, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_is_formatted(opa: str) -> None:
    run(opa, "fmt", "--list", "--fail", *FOLDERS, PAIRS)


@pytest.mark.parametrize("how", [FOLDERS, ["--bundle", "rego"]], ids=["files", "bundle"])
def test_every_file_passes_the_strict_check(opa: str, how: list[str]) -> None:
    run(opa, "check", *CHECK, *how)


def test_every_line_is_covered_by_a_test_that_passes(opa: str) -> None:
    whole = ["--fail-on-empty", "--coverage", "--threshold", "100", "--timeout", "60s"]
    run(opa, "test", *whole, *FOLDERS)


def test_every_pair_of_what_the_templates_tests_ask_one_by_one(opa: str) -> None:
    """Not among those tests themselves: an edited policy would wait for it."""
    run(opa, "test", "--fail-on-empty", "--run", "pairs_test", "--timeout", "60s", *FOLDERS, PAIRS)


def test_the_tests_pass_at_the_roots_of_a_bundle_too(opa: str) -> None:
    run(opa, "test", "--fail-on-empty", "--bundle", "rego")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_public_rule_says_what_it_is(opa: str, path: Path) -> None:
    parsed = json.loads(
        run(opa, "parse", "--format", "json", "--json-include=-comments", str(path))
    )
    public = {
        rule["head"]["ref"][0]["value"]
        for rule in parsed["rules"]
        if not rule["head"]["ref"][0]["value"].startswith("_")
    }
    inspected = json.loads(run(opa, "inspect", "--annotations", "--format", "json", str(path)))
    described = {
        item["path"][-1]["value"]
        for item in inspected["annotations"]
        if item["annotations"]["scope"] in {"rule", "document"}
        and item["annotations"].get("title")
        and item["annotations"].get("description")
    }
    assert public <= described


@pytest.mark.parametrize(
    "expression",
    [
        'http.send({"method": "get", "url": "http://127.0.0.1"})',
        "opa.runtime()",
        "time.now_ns()",
        'rand.intn("a", 10)',
        'uuid.rfc4122("a")',
        'net.lookup_ip_addr("localhost")',
        'rego.parse_module("a", "package a")',
        'trace("x")',
        "json.match_schema({}, {})",
    ],
)
def test_a_policy_cannot_ask_the_clock_the_network_or_the_dice(
    opa: str, tmp_path: Path, expression: str
) -> None:
    policy = tmp_path / "policy.rego"
    policy.write_text(f"package policies.all.p\n\nimport rego.v2\n\nx := {expression}\n")
    done = subprocess.run(
        [opa, "check", "--capabilities", REGO / "capabilities.json", policy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "undefined function" in done.stderr


def test_a_misspelt_input_field_is_found(opa: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.rego"
    header = "# METADATA\n# schemas:\n#   - input: schema.input\npackage policies.all.p\n\n"
    policy.write_text(header + 'import rego.v2\n\nx if input.tool.nmae == "a"\n')
    done = subprocess.run(
        [opa, "check", *CHECK, policy], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "rego_type_error" in done.stderr


def test_every_field_of_the_input_is_described() -> None:
    def undescribed(schema: dict[str, object], path: str) -> list[str]:
        properties = schema.get("properties", {})
        options = schema.get("anyOf", [])
        items = schema.get("items")
        assert isinstance(properties, dict)
        assert isinstance(options, list)
        found = [f"{path}.{name}" for name, one in properties.items() if "description" not in one]
        for name, one in properties.items():
            found += undescribed(one, f"{path}.{name}")
        for one in [*options, *([items] if isinstance(items, dict) else [])]:
            found += undescribed(one, path)
        return found

    for path in (REGO / "schemas").rglob("*.json"):
        assert undescribed(json.loads(path.read_text()), path.stem) == []
