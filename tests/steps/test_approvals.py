"""The digest of a grant: the same for the same call, another for anything else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.steps.approvals import Approvals
from gateway.values import (
    Action,
    Affordable,
    AgentId,
    Decision,
    KeyId,
    Pinned,
    ProjectId,
    ServerId,
)
from tests.builders import (
    a_call,
    a_decision,
    a_key,
    a_project,
    a_server,
    a_tool,
    a_verdict,
    an_agent,
)


def asking(**changes: Any) -> Decision:
    call = a_call(**changes)
    return a_decision(call, Action.REQUIRE_APPROVAL)


def digest(decision: Decision) -> str:
    return Approvals().find(Affordable(decision, ())).digest


def of_caller(**changes: Any) -> Decision:
    call = a_call()
    return asking(caller=replace(call.caller, **changes))


def of_params(**changes: Any) -> Decision:
    return asking(params={**a_call().params, **changes})


def of_tool(**changes: Any) -> Decision:
    decision = asking()
    return replace(decision, pinned=Pinned(decision.pinned.cleared, a_tool(**changes), False))


def test_the_same_call_asked_again_has_the_same_digest() -> None:
    assert digest(asking()) == digest(asking())


def test_what_differs_each_time_is_no_part_of_it() -> None:
    told = {"progressToken": 7, "traceparent": "00-1-2-3"}
    assert digest(of_params(_meta=told)) == digest(asking())
    assert digest(asking(session="another")) == digest(asking())


@pytest.mark.parametrize(
    "other",
    [
        lambda: asking(arguments={"object": "Contact"}),
        lambda: asking(tool_name="other"),
        lambda: of_params(_meta={"purpose": "another"}),
        lambda: of_params(task={"ttl": 1}),
        lambda: of_params(requestState="x"),
        lambda: of_caller(agent=an_agent(id=AgentId("agt_2"))),
        lambda: of_caller(agent=None),
        lambda: of_caller(agent=None, key=a_key(id=KeyId("key_2"))),
        lambda: of_caller(asserted=True),
        lambda: of_caller(project=a_project(id=ProjectId("prj_2"))),
        lambda: of_caller(server=a_server(id=ServerId("srv_2"))),
        lambda: of_caller(server=a_server(revision=2)),
        lambda: of_tool(definition_sha256="f" * 64),
        lambda: replace(asking(), verdict=a_verdict(Action.REQUIRE_APPROVAL, policy_ids=("p",))),
    ],
)
def test_a_grant_is_bound_to_all_of_the_call(other: Callable[[], Decision]) -> None:
    assert digest(other()) != digest(asking())


def test_only_what_asks_needs_a_grant() -> None:
    for action in Action:
        found = Approvals().find(Affordable(a_decision(action=action), ()))
        assert found.needs_grant == (action is Action.REQUIRE_APPROVAL)
        assert bool(found.digest) == found.needs_grant


def test_an_unknown_tool_that_must_be_asked_for_needs_a_grant() -> None:
    decision = a_decision()
    unknown = replace(decision, pinned=Pinned(decision.pinned.cleared, None, must_ask=True))
    assert Approvals().find(Affordable(unknown, ())).needs_grant


def test_monitor_mode_asks_for_nothing() -> None:
    watched = replace(asking(), enforced=False)
    assert not Approvals().find(Affordable(watched, ())).needs_grant


@pytest.mark.parametrize(
    "obligation",
    [
        {"type": "quorum", "count": 2},
        {"type": "approvers", "names": ["Robin"]},
        {"type": "reason"},
    ],
)
def test_a_grant_on_milder_terms_is_none(obligation: dict[str, Any]) -> None:
    verdict = a_verdict(Action.REQUIRE_APPROVAL, obligations=(obligation,))
    assert digest(replace(asking(), verdict=verdict)) != digest(asking())
    cost = a_verdict(Action.REQUIRE_APPROVAL, obligations=({"type": "cost", "amount": 1},))
    assert digest(replace(asking(), verdict=cost)) == digest(asking())
