"""The router against a real OPA: the table of record, and every way not to be understood."""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rego.conftest import REGO, OpaServer

Document = dict[str, Any]


def a_document(
    *,
    default: str = "ALLOW",
    asserted: bool = False,
    tool: str = "query_records",
    rules: list[Document] | None = None,
    template: list[Document] | None = None,
    overrides: list[Document] | None = None,
    organisation: list[Any] | None = None,
) -> Document:
    """A whole input; `template` and `organisation` are what those policies are told to find."""
    return {
        "version": 1,
        "project": {"id": "prj_1", "slug": "crm", "default_action": default},
        "agent": {"id": "agt_1", "name": "clerk", "asserted": asserted},
        "server": {
            "id": "srv_1",
            "slug": "sales",
            "origin": "https://crm.example",
            "template": None if template is None else "told",
            "params": {"findings": template or []},
            "overrides": overrides or [],
        },
        "tool": {
            "name": tool,
            "risk": "LOW",
            "risk_computed": "LOW",
            "pin": "ACCEPTED",
            "annotations": {},
            "definition_sha256": "ab",
        },
        "rules": rules or [],
        "arguments": {"findings": organisation or []},
        "call": {
            "source": "mcp",
            "method": "tools/call",
            "phase": "call",
            "era": "modern",
            "session": None,
            "task": None,
            "meta": {},
            "input_responses": None,
            "is_retry": False,
        },
        "context": {"time": "2026-11-22T10:00:00Z", "client_ip": "127.0.0.1"},
    }


def rule(action: str, *bindings: str) -> Document:
    """A database rule, bound to the named fields."""
    values = {
        "agent_id": "agt_1",
        "server_id": "srv_1",
        "tool_id": "tol_1",
        "tool_pattern": "query_*",
    }
    bound = {name: value if name in bindings else None for name, value in values.items()}
    name = "-".join(bindings) or "project"
    return {"id": name, "action": action, "min_risk": None, "reason": "", **bound}


def finding(action: str, policy_id: str = "p") -> Document:
    return {"action": action, "policy_id": policy_id, "reason": "because"}


def override(action: str, agent_id: str | None = None) -> Document:
    return {
        "policy_id": "p",
        "action": action,
        "agent_id": agent_id,
        "expires_at": "2026-12-01T00:00:00Z",
        "reason": "asked for",
    }


TABLE = {
    "nothing, default ALLOW": (a_document(), "ALLOW"),
    "project rule DENY, exact tool ALLOW": (
        a_document(rules=[rule("DENY"), rule("ALLOW", "tool_id")]),
        "ALLOW",
    ),
    "tool LOG_ONLY, agent DENY": (
        a_document(rules=[rule("LOG_ONLY", "tool_id"), rule("DENY", "agent_id")]),
        "LOG_ONLY",
    ),
    "template DENY, agent + tool ALLOW": (
        a_document(rules=[rule("ALLOW", "agent_id", "tool_id")], template=[finding("DENY")]),
        "DENY",
    ),
    "template DENY overridden to REQUIRE_APPROVAL for this agent": (
        a_document(
            template=[finding("DENY")], overrides=[override("REQUIRE_APPROVAL", agent_id="agt_1")]
        ),
        "REQUIRE_APPROVAL",
    ),
    "template DENY overridden to REQUIRE_APPROVAL for another agent": (
        a_document(
            template=[finding("DENY")], overrides=[override("REQUIRE_APPROVAL", agent_id="agt_2")]
        ),
        "DENY",
    ),
    "organisation ALLOW, default DENY": (
        a_document(default="DENY", organisation=[finding("ALLOW")]),
        "DENY",
    ),
    "organisation ALLOW, project rule DENY": (
        a_document(rules=[rule("DENY")], organisation=[finding("ALLOW")]),
        "DENY",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_table_of_record(server: OpaServer, case: str) -> None:
    document, action = TABLE[case]
    assert server.decide(document)["action"] == action


ORDER = ["ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"]


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("action", ORDER)
def test_the_organisation_makes_it_stricter_and_never_milder(
    server: OpaServer, case: str, action: str
) -> None:
    document, without = copy.deepcopy(TABLE[case])
    document["arguments"]["findings"].append(finding(action, "law"))
    assert server.decide(document)["action"] == max(action, without, key=ORDER.index)


def test_a_decision_is_sorted_and_names_who_decided(server: OpaServer) -> None:
    found = [finding("DENY", "b"), finding("DENY", "a"), finding("LOG_ONLY", "c")]
    decision = server.decide(a_document(organisation=found))
    assert decision == {
        "action": "DENY",
        "policy_ids": ["a", "b"],
        "reasons": ["because"],
        "obligations": [],
    }


def test_a_rule_that_loosens_never_matches_an_asserted_agent(server: OpaServer) -> None:
    rules = [rule("ALLOW", "agent_id", "tool_id"), rule("DENY")]
    assert server.decide(a_document(rules=rules))["action"] == "ALLOW"
    assert server.decide(a_document(rules=rules, asserted=True))["action"] == "DENY"


@pytest.mark.parametrize("document", [{}, None, [], "x", 1, {"project": None}])
def test_what_is_no_document_is_denied(server: OpaServer, document: object) -> None:
    decision = server.decide(document)
    assert decision["action"] == "DENY"
    assert "gateway.input_incomplete" in decision["policy_ids"]


def test_no_input_at_all_is_denied(server: OpaServer) -> None:
    answer = server.client.post("/v1/data/gateway/decision", json={}).json()
    assert answer["result"]["action"] == "DENY"


def paths(document: Document, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in document.items():
        yield (*prefix, name)
        if isinstance(value, dict) and not prefix and name != "arguments":
            yield from paths(value, (name,))


EVERY_FIELD = list(paths(a_document()))


@pytest.mark.parametrize("path", EVERY_FIELD, ids=".".join)
def test_every_field_removed_in_turn_is_denied(server: OpaServer, path: tuple[str, ...]) -> None:
    document = a_document()
    place = document
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    decision = server.decide(document)
    assert decision["action"] == "DENY"
    assert "gateway.input_incomplete" in decision["policy_ids"]


def test_the_schema_and_the_router_know_the_same_fields() -> None:
    schema = json.loads((REGO / "schemas" / "input.json").read_text())

    def fields(one: Document, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, inner in one.get("properties", {}).items():
            yield (*prefix, name)
            if not prefix:
                objects = [o for o in inner.get("anyOf", [inner]) if o.get("type") == "object"]
                for option in objects:
                    yield from fields(option, (name,))

    assert sorted(fields(schema)) == sorted(EVERY_FIELD)


def test_a_template_in_the_wrong_case_is_denied(server: OpaServer) -> None:
    document = a_document(rules=[rule("ALLOW", "tool_id")], template=[])
    assert server.decide(document)["action"] == "ALLOW"
    document["server"]["template"] = "Told"
    assert server.decide(document)["policy_ids"] == ["gateway.template_missing"]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"limit": None}, {"limit": "5"}, {"limit": [1]}, {"limit": True}, {"limit": 2000}],
    ids=str,
)
def test_an_argument_that_is_missing_or_mistyped_does_not_slip_through(
    server: OpaServer, arguments: Document
) -> None:
    document = a_document(tool="limit") | {"arguments": arguments}
    assert server.decide(document)["action"] == "DENY"
    assert server.decide(document | {"arguments": {"limit": 5}})["action"] == "ALLOW"


def test_a_builtin_error_is_an_error_and_no_silence(server: OpaServer) -> None:
    document = a_document(tool="limit") | {"arguments": {"limit": 5, "amount": "1,000,000"}}
    assert server.ask("gateway/decision", document).status_code == 500


def test_a_conflict_in_one_policy_is_an_error_and_no_decision(server: OpaServer) -> None:
    document = a_document(tool="conflict") | {"arguments": {}}
    response = server.ask("gateway/decision", document)
    assert response.status_code == 500
    assert "eval_conflict_error" in response.text
    assert server.decide(document | {"arguments": {"a": 1}})["action"] == "ALLOW"


@pytest.mark.parametrize("broken", ["DENY", None, 1, {}, {"action": "ALLOW"}, [finding("ALLOW")]])
def test_a_finding_that_cannot_be_understood_denies(server: OpaServer, broken: object) -> None:
    decision = server.decide(a_document(organisation=[broken]))
    assert decision["action"] == "DENY"
    assert decision["policy_ids"] == ["gateway.malformed_finding"]


@pytest.mark.parametrize("action", ["allow", "", None, "DENIED", ["DENY"]])
def test_an_unknown_action_denies(server: OpaServer, action: str) -> None:
    decision = server.decide(a_document(organisation=[finding(action, "p")]))
    assert (decision["action"], decision["policy_ids"]) == ("DENY", ["p"])
    decision = server.decide(a_document(rules=[rule(action, "tool_id")]))
    assert decision["action"] == "DENY"


READS_THE_DECISION = """package policies.all.reader

import rego.v2

{name} contains data.gateway.decision.action if input.tool
"""


@pytest.mark.parametrize(("name", "complaint"), [("summary", ""), ("findings", "recursive")])
def test_dispatch_ends_at_findings_so_only_they_may_not_read_the_decision(
    opa: str, tmp_path: Path, name: str, complaint: str
) -> None:
    policy = tmp_path / "reader.rego"
    policy.write_text(READS_THE_DECISION.replace("{name}", name))
    done = subprocess.run([opa, "check", REGO, policy], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is (complaint == ""), done.stderr
    assert complaint in done.stderr
