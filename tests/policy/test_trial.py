"""A new policy is ready to run; `gateway policy test` says what is wrong with another."""

import json
from pathlib import Path

import pytest

from gateway.policy.authoring import AuthoringFault, Route, begin
from gateway.policy.check import check
from gateway.policy.sources import BundleFault
from gateway.policy.trial import run_tests
from tests.policy.world import the_opa

ROUTES = ["all", "project/acme", "server/crm", "agent/Ann O'Neil", "tool/files.delete"]


def test_a_new_policy_of_every_route_passes_check_and_test_at_once(tmp_path: Path) -> None:
    made = [begin(f"p{n}", Route.read(route), tmp_path) for n, route in enumerate(ROUTES)]
    assert check([tmp_path], the_opa()) == []
    report = run_tests([tmp_path], the_opa(), coverage=True)
    assert report.failures == ()
    # Three tests and a sample each, and what is covered is what was written.
    assert report.passed == 4 * len(ROUTES)
    assert {file.file for file in report.coverage} == {str(files[0]) for files in made}
    assert report.percent == 100


def test_a_sample_that_its_policy_is_not_asked_about_fails(tmp_path: Path) -> None:
    [policy, _, sample] = begin("p", Route.read("tool/delete"), tmp_path)
    document = json.loads(sample.read_text())
    document["input"]["tool"]["name"] = "read"
    sample.write_text(json.dumps(document))
    [failure] = run_tests([tmp_path], the_opa()).failures
    assert failure.startswith(f"{sample}: action is ALLOW, expected REQUIRE_APPROVAL")
    # A package that is spelt otherwise than the tool is never asked either.
    document["input"]["tool"]["name"] = "delete"
    sample.write_text(json.dumps(document))
    policy.write_text(policy.read_text().replace("policies.tool.delete.p", "policies.tool.erase.p"))
    policy.with_name("p_test.rego").unlink()
    assert [str(sample) in one for one in run_tests([tmp_path], the_opa()).failures] == [True]


def test_a_test_that_fails_is_told_with_its_place_and_lines_without_test_by_number(
    tmp_path: Path,
) -> None:
    [policy, tests, sample] = begin("p", Route.read("all"), tmp_path)
    sample.unlink()
    text = tests.read_text()
    tests.write_text(text.replace('{"dry_run": true}', '{"dry_run": false}'))
    report = run_tests([tmp_path], the_opa(), coverage=True)
    line = 1 + text.splitlines().index("test_a_dry_run_passes if {")
    assert report.failures == (f"{tests}:{line}: test_a_dry_run_passes: failed",)
    tests.write_text(text[: text.index("test_what_says_neither")])
    [covered] = run_tests([tmp_path], the_opa(), coverage=True).coverage
    assert covered.percent < 100
    lines = policy.read_text().splitlines()
    assert any("findings contains" in lines[number - 1] for number in covered.missed)


def test_what_does_not_compile_or_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    [policy, _, sample] = begin("p", Route.read("all"), tmp_path)
    sound, whole = policy.read_text(), sample.read_text()
    policy.write_text(sound.replace("input.arguments", "input.argments"))
    with pytest.raises(BundleFault, match="undefined ref: input.argments"):
        run_tests([tmp_path], the_opa())
    policy.write_text(sound)
    sample.write_text("{}")
    with pytest.raises(BundleFault, match="a sample is"):
        run_tests([tmp_path], the_opa())
    sample.write_text(whole)
    assert run_tests([tmp_path], the_opa()).failures == ()


@pytest.mark.parametrize("name", ["", "Policy", "1st", "a-b", "a.b", "../x", "x" * 65])
def test_a_name_that_rego_could_not_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AuthoringFault, match="small letters"):
        begin(name, Route.read("all"), tmp_path)


@pytest.mark.parametrize(
    "text", ["", "everything", "tool", "tool/", "all/x", 'tool/a"b', "tool/\n"]
)
def test_what_is_no_route_is_refused(text: str) -> None:
    with pytest.raises(AuthoringFault):
        Route.read(text)


def test_a_tools_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "policies"
    for path in begin("p", Route.read("tool/../../x"), inside):
        assert path.resolve().is_relative_to(inside)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    [policy, *_] = begin("p", Route.read("all"), tmp_path)
    policy.write_text("mine")
    with pytest.raises(AuthoringFault, match="is there already"):
        begin("p", Route.read("all"), tmp_path)
    assert policy.read_text() == "mine"
