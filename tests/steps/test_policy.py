"""The policy step against a real OPA: with a router of our own, and with the project's."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiter
import orjson
import pytest

from gateway import assets
from gateway.policy.bundles import build_bundle
from gateway.policy.sources import the_sources
from gateway.refusals import Refused
from gateway.registry.directory import ProjectView
from gateway.registry.matching import Matching
from gateway.steps.policy import Policy
from gateway.values import (
    Action,
    Call,
    Cleared,
    Enforcement,
    Override,
    Pinned,
    Risk,
    Rule,
    ServerId,
    Steady,
    Tool,
    ToolId,
)
from tests.builders import (
    TOOL,
    a_call,
    a_caller,
    a_project,
    a_server,
    a_tool,
    an_agent,
)
from tests.policy.world import KEY, MODES, World, bundle_of, running, the_opa

pytestmark = pytest.mark.anyio

NOW = "2026-01-31T12:00:00.000000Z"


def _rule(**changes: Any) -> Rule:
    fields: dict[str, Any] = {
        **{"id": "pol_1", "action": Action.DENY, "agent_id": None, "server_id": None},
        **{"tool_id": None, "tool_pattern": None, "min_risk": None, "expires_at": None},
        "reason": "closed",
    }
    return Rule(**{**fields, **changes})


def _view(*rules: Rule, overrides: tuple[Override, ...] = ()) -> ProjectView:
    return ProjectView(
        project=a_project(),
        agents={},
        agents_by_name={},
        servers={},
        tools={},
        rules=rules,
        overrides={ServerId("srv_1"): overrides},
        budgets=(),
        stops=(),
        keys={},
        matching=Matching(rules),
    )


def _policy(world: World, view: ProjectView | None = None) -> Policy:
    return Policy(world.engine, view=lambda _: view or _view(), now=lambda: NOW)


def _pinned(call: Call, tool: Tool | None = None, *, must_ask: bool = False) -> Steady:
    return Steady(Pinned(Cleared(call, 0), tool, must_ask))


def _mode(mode: str, **changes: Any) -> Steady:
    return _pinned(a_call(arguments={"mode": mode}, **changes), a_tool())


async def test_a_decision_says_what_opa_said_and_which_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "src", MODES)
    async with running(tmp_path, bundle) as world:
        policy = _policy(world)
        decision = await policy.decide(_mode("allow"))
        assert decision.verdict.action is Action.ALLOW
        assert decision.verdict.policy_ids == ("t.one",)
        assert decision.verdict.reasons == ("why",)
        assert decision.verdict.obligations == ()
        assert decision.verdict.bundle_digest == bundle.digest
        assert (decision.enforced, decision.risk) == (True, Risk.LOW)
        assert (await policy.decide(_mode("deny"))).verdict.action is Action.DENY


async def test_half_an_answer_is_no_decision(tmp_path: Path) -> None:
    modes = {
        "no object": "no object",
        "unknown action": "PERMIT",
        "number as action": "action is 1",
        "number as reason": "reasons",
        "text as obligation": "obligations",
        "no ids": "policy_ids",
        "undefined": "undefined",
        "conflict": "eval_conflict_error",
        "builtin error": "eval_builtin_error",
    }
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        for mode, complaint in modes.items():
            with pytest.raises(Refused) as refused:
                await _policy(world).decide(_mode(mode))
            assert refused.value.reason == "policy_unavailable"
            assert refused.value.code == -31008
            assert complaint in refused.value.detail


async def test_opa_down_is_a_refusal(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        await world.opa.stop()
        with pytest.raises(Refused) as refused:
            await _policy(world).decide(_mode("allow"))
    assert (refused.value.reason, refused.value.retryable) == ("policy_unavailable", True)


async def test_what_opa_was_asked_is_kept_byte_for_byte(tmp_path: Path) -> None:
    arguments = jiter.from_json(
        b'{"mode":"echo","price":1.10,"big":9223372036854775807,"tiny":1e-9}',
        float_mode="lossless-float",
    )
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        call = replace(a_call(), arguments=arguments)
        decision = await _policy(world).decide(_pinned(call, a_tool()))
    seen = decision.verdict.reasons[0]
    assert '"price":1.10' in seen
    assert '"big":9223372036854775807' in seen
    assert b'"arguments":{"mode":"echo","price":1.10,"big":9223372036854775807,"tiny":1e-9}' in (
        decision.policy_input
    )


async def test_a_call_that_is_too_large_is_denied_without_asking(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        policy = _policy(world)
        await policy.decide(_pinned(a_call(arguments={"x": "x" * (250 << 10)}), a_tool()))
        with pytest.raises(Refused) as refused:
            await policy.decide(_pinned(a_call(arguments={"x": "x" * (256 << 10)}), a_tool()))
    assert (refused.value.reason, refused.value.code) == ("too_large_to_decide", -31003)


@pytest.mark.parametrize(
    ("project", "server", "enforced"),
    [
        (Enforcement.ENFORCE, None, True),
        (Enforcement.MONITOR, None, False),
        (Enforcement.MONITOR, Enforcement.ENFORCE, True),
        (Enforcement.ENFORCE, Enforcement.MONITOR, False),
    ],
)
async def test_monitor_mode_says_what_would_have_been(
    tmp_path: Path, project: Enforcement, server: Enforcement | None, enforced: bool
) -> None:
    caller = a_caller(project=a_project(enforcement=project), server=a_server(enforcement=server))
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        decision = await _policy(world).decide(_mode("deny", caller=caller))
    assert decision.verdict.action is Action.DENY
    assert decision.enforced is enforced


# --- the document ---


def _document(pinned: Pinned, view: ProjectView | None = None) -> Any:
    unasked: Any = None
    policy = Policy(unasked, view=lambda _: view or _view(), now=lambda: NOW)
    return orjson.loads(policy.question(pinned)[0])["input"]


def test_the_document_has_the_fields_of_its_schema_and_no_others() -> None:
    schema = orjson.loads((assets.asset("rego") / "schemas/input.json").read_bytes())
    override = Override("ovr_1", ServerId("srv_1"), "p", Action.ALLOW, None, "why", NOW)
    document = _document(
        _pinned(a_call(), a_tool()), _view(_rule(server_id="srv_1"), overrides=(override,))
    )
    assert _differences(document, schema, "input") == []


def test_a_question_follows_whatever_changes_between_two_calls() -> None:
    views = [_view()]
    unasked: Any = None
    policy = Policy(unasked, view=lambda _: views[-1], now=lambda: NOW)

    def asked(pinned: Pinned) -> Any:
        question, common = policy.question(pinned)
        # What is remembered is whole members of the input, and never what the call brings along.
        assert set(orjson.loads(question[:common] + b"}}")["input"]) == {
            *("version", "project", "agent", "server", "tool", "rules")
        }
        again = Policy(unasked, view=lambda _: views[-1], now=lambda: NOW).question(pinned)
        assert again == (question, common)
        return orjson.loads(question)["input"]

    tool = a_tool()
    first = _pinned(a_call(arguments={"n": 1}), tool)
    assert asked(first) == asked(first)
    assert asked(_pinned(a_call(arguments={"n": 2}), tool))["arguments"] == {"n": 2}
    views.append(_view(_rule()))
    assert len(asked(first)["rules"]) == 1
    views.append(_view(_rule(action=Action.LOG_ONLY)))
    assert asked(first)["rules"][0]["action"] == "LOG_ONLY"
    override = Override("ovr_1", ServerId("srv_1"), "p", Action.ALLOW, None, "why", NOW)
    views.append(_view(overrides=(override,)))
    assert len(asked(first)["server"]["overrides"]) == 1
    assert (
        asked(_pinned(a_call(arguments={"n": 1}), replace(tool, risk=Risk.HIGH)))["tool"]["risk"]
        == "HIGH"
    )
    assert asked(_pinned(a_call(), None, must_ask=True))["tool"]["pin"] == "UNKNOWN"
    assert asked(_pinned(a_call(), None))["tool"]["pin"] == "UNPINNED"
    server = a_server(enforcement=None)
    elsewhere = a_caller(server=replace(server, slug="other"))
    assert asked(_pinned(a_call(caller=elsewhere), tool))["server"]["slug"] == "other"


def _differences(value: Any, schema: Any, place: str) -> list[str]:
    if "anyOf" in schema:
        branches = [_differences(value, branch, place) for branch in schema["anyOf"]]
        return min(branches, key=len)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    kind = schema.get("type")
    if kind == "null":
        return [] if value is None else [f"{place} is not null"]
    if kind is not None and not isinstance(value, kinds[kind]):
        return [f"{place} is no {kind}"]
    if kind == "array":
        assert value, f"{place} is empty, so nothing is compared"
        return [d for item in value for d in _differences(item, schema["items"], f"{place}[]")]
    if kind != "object" or "properties" not in schema:
        return []
    found = [f"{place}.{name} is missing" for name in schema["required"] if name not in value]
    for name, part in value.items():
        if name in schema["properties"]:
            found += _differences(part, schema["properties"][name], f"{place}.{name}")
        else:
            found.append(f"{place}.{name} is unknown to the schema")
    return found


def test_only_the_rules_that_match_this_call_travel() -> None:
    view = _view(
        _rule(id="pol_all"),
        _rule(id="pol_other_tool", tool_id=ToolId("tol_2")),
        _rule(id="pol_pattern", tool_pattern="query_*", reason="patterned"),
        _rule(id="pol_late", expires_at="2026-01-31T11:59:59.999999Z"),
        _rule(id="pol_risky", min_risk=Risk.HIGH),
    )
    rules = _document(_pinned(a_call(), a_tool()), view)["rules"]
    assert [rule["id"] for rule in rules] == ["pol_all", "pol_pattern"]
    assert rules[1] == {
        **{"id": "pol_pattern", "action": "DENY", "agent_id": None, "server_id": None},
        **{"tool_id": None, "tool_pattern": "query_*", "min_risk": None, "reason": "patterned"},
    }


@pytest.mark.parametrize(("must_ask", "pin"), [(True, "UNKNOWN"), (False, "UNPINNED")])
def test_an_unknown_tool_is_high_risk(must_ask: bool, pin: str) -> None:
    tool = _document(_pinned(a_call(), must_ask=must_ask))["tool"]
    assert tool == {
        **{"name": TOOL, "risk": "HIGH", "risk_computed": "HIGH", "pin": pin},
        **{"annotations": {}, "definition_sha256": None},
    }


def test_session_and_task_ids_are_hashed_and_credentials_absent() -> None:
    caller = a_caller(
        server=a_server(
            url="https://user:pass@crm.example:8443/mcp?token=s3cret",
            auth_headers=((b"authorization", b"Bearer up-secret"),),
        )
    )
    call = a_call(caller=caller, session="session-id", task={"taskId": "task-id", "ttl": 60})
    document = _document(_pinned(call, a_tool()))
    assert document["call"]["session"] == hashlib.sha256(b"session-id").hexdigest()
    task = {"taskId": hashlib.sha256(b"task-id").hexdigest(), "ttl": 60}
    assert document["call"]["task"] == task
    assert document["server"]["origin"] == "https://crm.example:8443"
    text = orjson.dumps(document)
    assert not re.search(rb"session-id|task-id|secret|s3cret|pass@", text)


def test_a_key_without_an_agent_asks_as_nobody() -> None:
    pinned = _pinned(a_call(caller=a_caller(agent=None)), a_tool())
    assert _document(pinned)["agent"] is None
    asserted = _pinned(a_call(caller=a_caller(asserted=True)), a_tool())
    assert _document(asserted)["agent"] == {
        **{"id": an_agent().id, "name": an_agent().name, "asserted": True},
    }


# --- the project's own router ---


async def test_the_projects_router_decides_these_documents(tmp_path: Path) -> None:
    bundle = build_bundle(the_sources(), opa=the_opa(), key=KEY)
    async with running(tmp_path, bundle) as world:

        async def decided(pinned: Steady, *rules: Rule) -> tuple[str, tuple[str, ...]]:
            verdict = (await _policy(world, _view(*rules)).decide(pinned)).verdict
            return str(verdict.action), verdict.policy_ids

        plain = _pinned(a_call(), a_tool())
        assert await decided(plain) == ("ALLOW", ("gateway.default",))
        assert await decided(plain, _rule()) == ("DENY", ("rule:pol_1",))
        asked = await decided(plain, _rule(action=Action.REQUIRE_APPROVAL, tool_pattern="query_*"))
        assert asked == ("REQUIRE_APPROVAL", ("rule:pol_1",))
        nobody = _pinned(a_call(caller=a_caller(agent=None)), a_tool())
        assert (await decided(nobody))[0] == "ALLOW"
        unknown = _pinned(a_call(), must_ask=True)
        assert await decided(unknown) == ("REQUIRE_APPROVAL", ("gateway.unknown_tool",))
        let_pass = _pinned(a_call(), must_ask=False)
        assert (await decided(let_pass))[0] == "ALLOW"
        bound = a_caller(server=a_server(template="no_such_template"))
        missing = await decided(_pinned(a_call(caller=bound), a_tool()))
        assert missing == ("DENY", ("gateway.template_missing",))
