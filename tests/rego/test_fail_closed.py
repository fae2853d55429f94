"""The quiet ways in which Rego lets a call pass, each closed: by the bundle, by how OPA is asked,
or by the router. The policies are written as somebody in a hurry would.

What `gateway policy check` says of such policies is in tests/policy/test_check.py; that the gateway
refuses where OPA has no answer, in tests/steps/test_policy.py.
"""

from typing import Any

import orjson
import pytest

from gateway.policy.bundles import build_bundle
from gateway.policy.check import with_folders
from gateway.policy.scratch import Tried, decide_all
from tests.policy.world import KEY, the_opa
from tests.rego.test_router import a_document

DENY = '{"action": "DENY", "policy_id": "p", "reason": "why"}'
POLICIES = {
    # None of them says `import rego.v2`.
    "negation": f"findings contains {DENY} if not is_number(input.arguments.limit)",
    "builtin": f"findings contains {DENY} if to_number(input.arguments.amount) > 1000",
    "guarded": f"findings contains {DENY} if {{ not _small }}\n\n"
    "_small if { is_number(input.arguments.limit); input.arguments.limit <= 1000 }",
    "settings": f"findings contains {DENY} if not data.policies.all.settings.enabled",
    "actionless": 'findings contains {"policy_id": "p", "reason": "why"}',
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("policies")
    for tool, rule in POLICIES.items():
        (folder / f"{tool}.rego").write_text(f"package policies.tool.{tool}.p\n\n{rule}\n")
    return build_bundle(with_folders([folder])[0], opa=the_opa(), key=KEY).archive


def decided(archive: bytes, tool: str, *arguments: dict[str, Any]) -> list[Tried]:
    documents = [a_document(tool=tool) | {"arguments": one} for one in arguments]
    questions = [orjson.dumps({"input": document}) for document in documents]
    return decide_all(archive, questions, the_opa())


def actions(archive: bytes, tool: str, *arguments: dict[str, Any]) -> list[str | None]:
    return [answer.action for answer in decided(archive, tool, *arguments)]


def test_not_with_a_missing_reference_holds_also_without_the_import(archive: bytes) -> None:
    assert actions(archive, "negation", {}, {"limit": 5}) == ["DENY", "ALLOW"]


def test_an_error_of_a_builtin_is_no_decision(archive: bytes) -> None:
    huge, small, large = decided(
        archive, "builtin", {"amount": "1,000,000"}, {"amount": "5"}, {"amount": "5000"}
    )
    assert (huge.action, small.action, large.action) == (None, "ALLOW", "DENY")
    assert huge.error.startswith("eval_builtin_error")


@pytest.mark.parametrize("arguments", [{}, {"limit": None}], ids=["missing", "null"])
def test_a_missing_or_null_argument_is_not_a_small_one(
    archive: bytes, arguments: dict[str, Any]
) -> None:
    assert actions(archive, "guarded", arguments, {"limit": 5}) == ["DENY", "ALLOW"]


@pytest.mark.parametrize("limit", ["5", [1], {}, True, "2000"], ids=repr)
def test_what_is_no_number_does_not_compare_as_one(archive: bytes, limit: object) -> None:
    assert actions(archive, "guarded", {"limit": limit}) == ["DENY"]


def test_missing_data_and_a_finding_without_action_deny(archive: bytes) -> None:
    assert actions(archive, "settings", {}) == ["DENY"]
    [answer] = decided(archive, "actionless", {})
    assert (answer.action, answer.policy_ids) == ("DENY", ("p",))
    document = a_document(template=[])
    document["server"]["template"] = "no_such_template"
    [missing] = decide_all(archive, [orjson.dumps({"input": document})], the_opa())
    assert (missing.action, missing.policy_ids) == ("DENY", ("gateway.template_missing",))
