"""What a bundle must pass before it may serve, with a real OPA."""

import threading
from pathlib import Path

import pytest

from gateway import assets
from gateway.policy import proof
from gateway.policy.bundles import pack
from gateway.policy.proof import Commands, Dropped
from gateway.policy.sources import BundleFault, Source, Tree, compose
from tests.policy.world import KEY, the_opa

ROUTER = """package gateway

import rego.v2

decision := {"action": "DENY", "found": {f | some f in data.policies.all[_].findings}}
"""
POLICY = """package policies.all.{name}

import rego.v2

findings contains {{"policy_id": "{name}", "action": "{action}"}}
"""
TEST = """package policies_test.{name}

import rego.v2

import data.policies.all.{name}

test_denies if {{
	some finding in {name}.findings
	finding.action == "DENY"
}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path / "gateway/decision.rego", ROUTER)
    for name in ("mail", "pay"):
        _policy(tmp_path, name)
        _write(tmp_path / f"policies/{name}/{name}_test.rego", TEST.format(name=name))
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _policy(folder: Path, name: str, action: str = "DENY") -> None:
    _write(folder / f"policies/{name}/{name}.rego", POLICY.format(name=name, action=action))


def _tree(folder: Path) -> Tree:
    names = [name for name in ("gateway", "lib", "policies") if (folder / name).is_dir()]
    return compose([Source(name, folder / name, (name,)) for name in names], the_opa())


def _try(folder: Path, since: Tree | None = None) -> Tree:
    tree = _tree(folder)
    commands = Commands(the_opa())
    proof.try_all(commands, pack(tree, KEY).archive, tree, assets.asset("rego"), since)
    return tree


def _fault(folder: Path, since: Tree | None = None) -> BundleFault:
    with pytest.raises(BundleFault) as caught:
        _try(folder, since)
    return caught.value


@pytest.mark.parametrize(
    ("rule", "line", "reason"),
    [
        ("x := ", 4, "rego_parse_error"),
        ("x := y", 3, "var y is unsafe"),
        ('x := 1 + "a"', 3, "rego_type_error"),
        ("import data.lib\n\nx := 1", 3, "import data.lib unused"),
        ('x := http.send({"url": "x"})', 3, "undefined function http.send"),
        ("x if y\n\ny if x", 3, "recursive"),
        ('findings := 1\n\nfindings := "two"', 5, "conflicting"),
        ('findings := to_number("x")', 3, "eval_builtin_error"),
    ],
)
def test_what_opa_refuses_is_named_by_file_line_and_reason(
    folder: Path, rule: str, line: int, reason: str
) -> None:
    broken = folder / "policies/broken.rego"
    broken.write_text(f"package policies.all.broken\n\n{rule}\n")
    fault = _fault(folder)
    assert (fault.file, fault.line) == (str(broken), line)
    assert reason in fault.reason


def test_a_rule_that_data_contradicts_is_refused(folder: Path) -> None:
    _write(folder / "policies/all/pay/data.json", '{"findings": 1}')
    fault = _fault(folder)
    assert "conflicting rule" in fault.reason
    assert fault.file == str(folder / "policies/pay/pay.rego")


def test_a_failing_test_is_named_with_its_line(folder: Path) -> None:
    _policy(folder, "pay", "ALLOW")
    fault = _fault(folder)
    assert (fault.file, fault.line) == (str(folder / "policies/pay/pay_test.rego"), 7)
    assert "policies_test.pay.test_denies fails" in fault.reason


def test_a_test_that_does_not_compile_is_a_fault_too(folder: Path) -> None:
    _write(folder / "policies/bad_test.rego", "package policies_test.bad\n\ntest_x if y\n")
    fault = _fault(folder)
    assert (fault.file, fault.line) == (str(folder / "policies/bad_test.rego"), 3)


def test_a_change_of_one_policy_runs_its_tests_and_no_others(folder: Path) -> None:
    _policy(folder, "mail", "ALLOW")  # broken, and not looked at
    before = _tree(folder)
    _policy(folder, "pay", "REQUIRE_APPROVAL")
    assert "pay" in _fault(folder, before).reason
    _policy(folder, "pay", "DENY")
    _try(folder, before)
    assert "mail" in _fault(folder).reason


def test_tests_beside_a_changed_policy_run_also_if_they_do_not_name_it(folder: Path) -> None:
    before = _try(folder)
    _policy(folder, "pay", "LOG_ONLY")
    _write(folder / "policies/pay/pay_test.rego", "package policies_test.pay\n")
    routed = 'package policies_test.routed\n\ntest_x if data.gateway.decision.action == "ALLOW"\n'
    _write(folder / "policies/pay/routed_test.rego", routed)
    assert "routed" in _fault(folder, before).reason


def test_what_all_share_is_tested_without_the_organisations_policies(folder: Path) -> None:
    alone = "package gateway.alone_test\n\ntest_x if not data.policies\n"
    _write(folder / "gateway/alone_test.rego", alone)
    _try(folder)


@pytest.mark.parametrize("path", ["lib/a.rego", "lib/data.json", "gateway/more.rego"])
def test_a_change_of_what_all_share_runs_all_tests(folder: Path, path: str) -> None:
    _policy(folder, "mail", "ALLOW")
    before = _tree(folder)
    content = {"lib/a.rego": "package lib.a\n", "lib/data.json": '{"n": 1}'}
    _write(folder / path, content.get(path, "package gateway.more\n"))
    assert "mail" in _fault(folder, before).reason


def test_a_policy_that_is_removed_breaks_the_tests_that_name_it(folder: Path) -> None:
    before = _try(folder)
    (folder / "policies/pay/pay.rego").unlink()
    assert "pay" in _fault(folder, before).reason


def test_samples_are_data_for_tests_and_for_nothing_else(folder: Path) -> None:
    _write(folder / "policies/samples/one.json", '{"one": {"amount": 1}}')
    text = "package policies_test.samples\n\ntest_x if data.policies.samples.one.amount == 1\n"
    _write(folder / "policies/samples_test.rego", text)
    assert b"amount" not in _try(folder).files["data.json"]


def test_a_whole_call_of_each_route_is_asked_before_anyone_else_asks(folder: Path) -> None:
    router = ROUTER.replace("data.policies.all[_]", "data.policies.tool[input.tool.name][_]")
    _write(folder / "gateway/decision.rego", router)
    _write(
        folder / "policies/twice.rego",
        "package policies.tool.export.twice\n\nimport rego.v2\n\n"
        'action := "DENY" if input.tool.risk == "LOW"\n\naction := "ALLOW" if is_object(input)\n\n'
        "findings contains action\n",
    )
    assert "conflict" in _fault(folder).reason


ROUTERS = """package gateway

import rego.v2

method := {"action": "ALLOW", "found": object.get(data.policies, ["method", _method], {})}

default _method := ""

_method := input.target.method

response := {"block": false, "found": [f | some f in object.get(data.policies, "response", {})]}
"""
TWICE = """package policies.PACKAGE

import rego.v2

_one := 1 if is_object(input)

_one := 2 if input.context.time > ""

findings contains _one
"""


@pytest.mark.parametrize(
    "package", ['method["resources/read"].p', "response.all.p", "response.tool.export.p"]
)
def test_messages_and_responses_are_asked_about_before_anyone_else_asks(
    folder: Path, package: str
) -> None:
    _write(folder / "gateway/other.rego", ROUTERS)
    policy = TWICE.replace("PACKAGE", package)
    _write(folder / "policies/other.rego", policy.replace("_one := 2 if", "_two := 2 if"))
    _try(folder)
    _write(folder / "policies/other.rego", policy)
    assert "conflict" in _fault(folder).reason


@pytest.mark.parametrize("name", ["method", "response"])
def test_a_router_must_answer_where_there_are_policies_for_it(folder: Path, name: str) -> None:
    route = 'method["resources/read"]' if name == "method" else "response.all"
    _write(folder / "policies/other.rego", f"package policies.{route}.p\n\nfindings := set()\n")
    assert f"data.gateway.{name} has no answer to every question" in _fault(folder).reason
    _write(folder / "gateway/other.rego", f"package gateway\n\n{name} := {{}}\n")
    assert f"data.gateway.{name} answers what nobody understands" in _fault(folder).reason


def test_what_is_overtaken_ends_at_once(folder: Path) -> None:
    commands = Commands(the_opa())
    slow = "count([1 | some i in numbers.range(1, 9000); some j in numbers.range(1, 9000); i == j])"
    running = threading.Timer(0.3, commands.drop)
    running.start()
    with pytest.raises(Dropped):
        commands.run("eval", slow, folder=folder)
    with pytest.raises(Dropped):
        commands.run("version", folder=folder)
    running.join()


def test_coverage_tells_what_tests_reach_and_which_lines_they_do_not(folder: Path) -> None:
    more = 'findings contains {"policy_id": "pay", "action": "DENY"} if input.never\n'
    path = folder / "policies/pay/pay.rego"
    path.write_text(f"{path.read_text()}\n{more}")
    (folder / "policies/mail/mail_test.rego").unlink()
    tree = _tree(folder)
    reached = proof.coverage(Commands(the_opa()), tree)
    line = path.read_text().splitlines().index(more.strip()) + 1
    assert reached["policies/pay/pay.rego"].missed == {line}
    assert 0 < reached["policies/pay/pay.rego"].percent < 100
    assert reached["policies/mail/mail.rego"].percent == 0
    assert not any(name.endswith("_test.rego") for name in reached)
    assert proof.tests_by_folder(tree) == {"policies/pay": ("test_denies",)}


def test_coverage_of_tests_that_fail_is_a_fault(folder: Path) -> None:
    _policy(folder, "pay", "ALLOW")
    with pytest.raises(BundleFault, match="no coverage"):
        proof.coverage(Commands(the_opa()), _tree(folder))
