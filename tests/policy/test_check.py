"""What `gateway policy check` finds in policies that OPA accepts, and in those that it does not."""

import re
from pathlib import Path
from typing import TypeAlias

import pytest

from gateway.policy.check import check
from tests.policy.world import the_opa

Found: TypeAlias = dict[str, list[tuple[str, int]]]

HEAD = """\
# METADATA
# title: A policy
# schemas:
#   - input: schema.input
package policies.all.p

import rego.v2

"""
FINDS = """\
# METADATA
# title: Something
findings contains {"action": "DENY", "policy_id": "p", "reason": "why"} if {
	input.tool.risk == "HIGH"
}
"""


def finds(body: str) -> str:
    return HEAD + FINDS.replace('input.tool.risk == "HIGH"', body)


def found(folder: Path, rego: str) -> list[tuple[str, int]]:
    """The rules that a policy breaks, each with its line."""
    path = folder / "all/p/p.rego"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rego)
    flaws = check([folder], the_opa())
    assert {flaw.file for flaw in flaws} <= {str(path)}
    assert all(flaw.message for flaw in flaws)
    return [(flaw.rule, flaw.line) for flaw in flaws]


FLAWED = {
    "two values for one complete rule": (
        HEAD
        + '_limit := 1 if input.tool.risk == "HIGH"\n\n_limit := 2 if input.tool.pin == "OK"\n\n'
        + FINDS.replace('input.tool.risk == "HIGH"', "_limit == 2"),
        [("several-definitions", 11)],
    ),
    "a finding without action and reason": (
        HEAD + '# METADATA\n# title: T\nfindings contains {"policy_id": "p"} if input.tool.name\n',
        [("finding-no-action", 11), ("finding-no-reason", 11)],
    ),
    "a finding in a variable without reason": (
        HEAD
        + "# METADATA\n# title: T\nfindings contains found if {\n"
        + '\tfound := {"action": "DENY", "policy_id": "p"}\n\tinput.tool.name == "x"\n}\n',
        [("finding-no-reason", 11)],
    ),
    "an unknown action": (
        finds('input.tool.risk == "HIGH"').replace('"DENY"', '"BLOCK"'),
        [("finding-unknown-action", 11)],
    ),
    "an ALLOW of the organisation": (
        finds('input.tool.risk == "HIGH"').replace('"DENY"', '"ALLOW"'),
        [("allow-no-effect", 11)],
    ),
    "an approval of what nobody can approve": (
        HEAD.replace("policies.all.p", 'policies.method["resources/read"].p').replace(
            "schema.input", "schema.method.input"
        )
        + FINDS.replace('input.tool.risk == "HIGH"', "input.target.params.uri").replace(
            '"DENY"', '"REQUIRE_APPROVAL"'
        ),
        [("method-asks-approval", 11)],
    ),
    "findings that are no set": (
        HEAD + '# METADATA\n# title: T\nfindings := [{"action": "DENY"}] if input.tool.name\n',
        [("findings-no-set", 11)],
    ),
    "a reason that reads what may not be there": (
        finds('input.tool.risk == "HIGH"').replace(
            '"why"', 'sprintf("%v", [input.arguments.limit])'
        ),
        [("finding-may-vanish", 11)],
    ),
    "no metadata at all": (
        "package policies.all.p\n\nimport rego.v2\n\n"
        + FINDS.replace("# METADATA\n# title: Something\n", ""),
        [("metadata-package", 1), ("metadata-rule", 5)],
    ),
    "no schema": (
        HEAD.replace("# schemas:\n#   - input: schema.input\n", "") + FINDS,
        [("metadata-schema", 3)],
    ),
    "with outside a test": (
        finds('input.tool.risk == "HIGH" with input.tool.risk as "LOW"'),
        [("with-outside-test", 12)],
    ),
    "a comparison without is_number": (
        finds("input.arguments.limit > 5"),
        [("unchecked-number", 12)],
    ),
    "a comparison of a variable": (
        finds('limit := object.get(input.arguments, "limit", 0)\n\tlimit * 2 >= 5'),
        [("unchecked-number", 13)],
    ),
    "a comparison of an element": (
        finds("some limit in input.arguments.limits\n\tlimit > 5"),
        [("unchecked-number", 13)],
    ),
    "a comparison in a comprehension": (
        finds("count([1 | some limit in input.arguments.limits; limit > 5]) > 0"),
        [("unchecked-number", 12)],
    ),
    "a denied comparison": (
        finds("not input.arguments.limit <= 5"),
        [("unchecked-number", 12)],
    ),
    "is_number asked of another value": (
        finds("is_number(input.arguments.offset)\n\tinput.arguments.limit > 5"),
        [("unchecked-number", 13)],
    ),
    "is_number denied instead of asked": (
        finds("not is_number(input.arguments.limit)\n\tinput.arguments.limit > 5"),
        [("unchecked-number", 13)],
    ),
    "a regex on what may be no text": (
        finds('regex.match("^a", input.arguments.name)'),
        [("unchecked-string", 12)],
    ),
    "a hidden set that reads arguments": (
        HEAD + FINDS + "\n# METADATA\n# title: T\nhidden contains input.tool.name if _big\n\n"
        "_big if input.arguments.size\n",
        [("hidden-reads-arguments", 19)],
    ),
    "a package without findings": (
        HEAD + "# METADATA\n# title: T\nlimit := 5\n",
        [("never-asked", 5)],
    ),
    "a package deeper than its route": (
        HEAD.replace("policies.all.p", "policies.all.team.p") + FINDS,
        [("never-asked", 5)],
    ),
    "a package of no route": (
        HEAD.replace("policies.all.p", "policies.everyone.p") + FINDS,
        [("never-asked", 5)],
    ),
    "a policy for calls among those for other methods": (
        HEAD.replace("policies.all.p", 'policies.method["tools/call"].p') + FINDS,
        [("never-asked", 5)],
    ),
    "a policy for a method that nobody has": (
        HEAD.replace("policies.all.p", 'policies.method["resource/read"].p') + FINDS,
        [("never-asked", 5)],
    ),
    "a file that is not formatted": (
        finds('input.tool.risk    ==   "HIGH"'),
        [("format", 1)],
    ),
}


BROKEN = {
    "what does not parse": (finds("input.tool.risk =="), [("rego-parse-error", 13)]),
    "a misspelt field": (finds('input.tool.rsik == "HIGH"'), [("rego-type-error", 12)]),
    "a builtin that policies may not call": (
        finds("time.now_ns() > 5"),
        [("rego-type-error", 12)],
    ),
    "a strict error": (finds('_ = 1\n\tunused := "x"'), [("rego-compile-error", 13)]),
}

SOUND = {
    "a policy for another method": finds('input.target.params.uri == "a"')
    .replace("schema.input", "schema.method.input")
    .replace("policies.all.p", 'policies.method["resources/read"].p'),
    "a plain policy": finds('input.tool.risk == "HIGH"'),
    "a number that was asked for": finds(
        "is_number(input.arguments.limit)\n\tinput.arguments.limit > 5"
    ),
    "a variable that was asked for": finds(
        "limit := input.arguments.limit\n\tis_number(limit)\n\tlimit > 5"
    ),
    "an outer question for an inner use": finds(
        "is_number(input.arguments.limit)\n"
        "\tcount([1 | some n in [1, 2]; input.arguments.limit > n]) > 0"
    ),
    "a text that was asked for": finds(
        'is_string(input.arguments.name)\n\tregex.match("^a", input.arguments.name)'
    ),
    "a denied test of text, which a missing one passes": finds(
        'not startswith(input.arguments.name, "a")'
    ),
    "a count": finds("count(input.arguments) > 5"),
    "several definitions that all say true": HEAD
    + '_risky if input.tool.risk == "HIGH"\n\n_risky if input.tool.risk == "CRITICAL"\n\n'
    + FINDS.replace('input.tool.risk == "HIGH"', "_risky"),
    "a chain of else": HEAD
    + '_limit := 1 if input.tool.risk == "HIGH"\n\nelse := 2\n\n'
    + FINDS.replace('input.tool.risk == "HIGH"', "_limit == 2"),
    "a reason of what the body reads": finds("is_number(input.arguments.limit)").replace(
        '"why"', 'sprintf("%v", [input.arguments.limit])'
    ),
}


@pytest.fixture(scope="module")
def found_at_once(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What is found in each case, all of them in one folder: OPA is started once for them."""
    folder = tmp_path_factory.mktemp("policies")
    cases = {**{case: rego for case, (rego, _) in FLAWED.items()}, **SOUND}
    files = {}
    for number, (case, rego) in enumerate(cases.items()):
        path = folder / f"all/p{number}/p.rego"
        path.parent.mkdir(parents=True)
        path.write_text(re.sub(r"(?m)^(package policies\..*)\bp$", rf"\1p{number}", rego))
        files[str(path)] = case
    found: Found = {case: [] for case in cases}
    for flaw in check([folder], the_opa()):
        assert flaw.message
        found[files[flaw.file]].append((flaw.rule, flaw.line))
    return found


@pytest.mark.parametrize("case", FLAWED)
def test_what_deceives_is_found_with_its_line(found_at_once: Found, case: str) -> None:
    assert found_at_once[case] == FLAWED[case][1]


@pytest.mark.parametrize("case", SOUND)
def test_what_is_sound_passes(found_at_once: Found, case: str) -> None:
    assert found_at_once[case] == []


@pytest.mark.parametrize("case", BROKEN)
def test_what_opa_refuses_is_found_with_its_line(tmp_path: Path, case: str) -> None:
    rego, expected = BROKEN[case]
    assert found(tmp_path, rego) == expected


def test_tests_may_say_with(tmp_path: Path) -> None:
    (tmp_path / "all/p").mkdir(parents=True)
    (tmp_path / "all/p/p_test.rego").write_text(
        "package policies_test.p\n\nimport rego.v2\n\n"
        "test_it if data.policies.all.p.findings == set() with input as {}\n"
    )
    assert found(tmp_path, finds('input.tool.risk == "HIGH"')) == []


def test_a_package_that_another_policy_reads_is_no_orphan(tmp_path: Path) -> None:
    limits = HEAD.replace("policies.all.p", "policies.all.limits")
    (tmp_path / "all/limits").mkdir(parents=True)
    (tmp_path / "all/limits/limits.rego").write_text(limits + "# METADATA\n# title: T\nmost := 5\n")
    body = "count(input.arguments) > data.policies.all.limits.most"
    assert found(tmp_path, finds(body)) == []


def test_two_files_of_one_package_may_not_disagree(tmp_path: Path) -> None:
    (tmp_path / "all/p").mkdir(parents=True)
    (tmp_path / "all/p/other.rego").write_text(
        "package policies.all.p\n\nimport rego.v2\n\n_most := 1\n"
    )
    (tmp_path / "all/p/p.rego").write_text(finds("_most == 2") + "\n_most := 2\n")
    assert "several-definitions" in {flaw.rule for flaw in check([tmp_path], the_opa())}


def test_a_package_outside_its_root_is_found(tmp_path: Path) -> None:
    (tmp_path / "all/p").mkdir(parents=True)
    hijack = HEAD.replace("policies.all.p", "gateway.extra") + FINDS
    (tmp_path / "all/p/p.rego").write_text(hijack)
    [flaw] = check([tmp_path], the_opa())
    assert flaw.rule == "build"
    assert "outside policies" in flaw.message


def test_the_gateways_own_policies_are_sound() -> None:
    policies = Path(__file__).parents[2] / "rego" / "policies"
    assert check([policies], the_opa()) == []
