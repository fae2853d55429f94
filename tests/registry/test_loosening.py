"""Which changes loosen, as a table: when in doubt yes, and never no for what does."""

from dataclasses import replace

import pytest

from gateway.registry.loosening import (
    budget_loosens,
    cost_loosens,
    loosened_settings,
    override_loosens,
    rule_loosens,
)
from gateway.values import Action, AgentId, Override, Risk, Rule, ServerId, ToolId

ALLOW, LOG, ASK, DENY = Action
RULE = Rule(
    id="pol_1",
    action=DENY,
    agent_id=None,
    server_id=None,
    tool_id=None,
    tool_pattern=None,
    min_risk=None,
    expires_at=None,
    reason="",
)
ANN, BOB = AgentId("agt_a"), AgentId("agt_b")
TOOL = ToolId("tol_1")


def a_rule(action: Action, **given: object) -> Rule:
    return replace(RULE, action=action, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("after", "others", "default", "loosens"),
    [
        # Nothing stricter is there: nothing to loosen.
        (a_rule(ALLOW), [], ALLOW, False),
        (a_rule(LOG, tool_id=TOOL), [], ALLOW, False),
        (a_rule(DENY, tool_id=TOOL), [a_rule(ALLOW)], DENY, False),
        # The default where nothing matches is stricter.
        (a_rule(ALLOW), [], LOG, True),
        (a_rule(ASK, tool_pattern="x*"), [], DENY, True),
        # What is more specific outranks what is stricter.
        (a_rule(ALLOW, tool_id=TOOL), [a_rule(DENY)], ALLOW, True),
        (a_rule(LOG, tool_id=TOOL), [a_rule(DENY, tool_pattern="*")], ALLOW, True),
        (a_rule(ALLOW, tool_pattern="a*"), [a_rule(ASK, agent_id=ANN)], ALLOW, True),
        (a_rule(ALLOW, agent_id=ANN), [a_rule(LOG, server_id=ServerId("s"))], ALLOW, True),
        (a_rule(ALLOW, server_id=ServerId("s")), [a_rule(DENY)], ALLOW, True),
        (a_rule(ALLOW, agent_id=ANN, tool_id=TOOL), [a_rule(DENY, tool_id=TOOL)], ALLOW, True),
        # As specific, the strictest counts; less specific, it does not count.
        (a_rule(ALLOW), [a_rule(DENY)], ALLOW, False),
        (a_rule(ALLOW, tool_pattern="a*"), [a_rule(DENY, tool_pattern="b*")], ALLOW, False),
        (a_rule(ALLOW, agent_id=ANN), [a_rule(DENY, tool_pattern="*")], ALLOW, False),
        (a_rule(ALLOW, tool_id=TOOL), [a_rule(DENY, tool_id=TOOL, agent_id=ANN)], ALLOW, False),
        # They never meet in one call.
        (
            a_rule(ALLOW, agent_id=ANN, tool_id=TOOL),
            [a_rule(DENY, agent_id=BOB)],
            ALLOW,
            False,
        ),
        (
            a_rule(ALLOW, tool_id=TOOL),
            [a_rule(DENY, tool_pattern="*", server_id=ServerId("other"))],
            ALLOW,
            True,  # which server a tool is of is not said here: in doubt yes
        ),
    ],
)
def test_a_new_rule_loosens_what_it_outranks(
    after: Rule, others: list[Rule], default: Action, loosens: bool
) -> None:
    assert rule_loosens(None, after, others, default) is loosens


@pytest.mark.parametrize("action", [LOG, ASK, DENY])
def test_a_rule_that_restricts_loosens_when_it_goes(action: Action) -> None:
    assert rule_loosens(a_rule(action), None, [], ALLOW)
    assert not rule_loosens(a_rule(ALLOW), None, [a_rule(action)], ALLOW)
    assert not rule_loosens(None, None, [], ALLOW)


SOON, LATER = "2030-01-01T00:00:00.000000Z", "2031-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("before", "after", "loosens"),
    [
        (a_rule(DENY), a_rule(ASK), True),
        (a_rule(LOG), a_rule(ALLOW), True),
        (a_rule(ASK), a_rule(DENY), False),
        (a_rule(DENY), a_rule(DENY, reason="why"), False),
        (a_rule(DENY), a_rule(DENY, expires_at=SOON), True),
        (a_rule(DENY, expires_at=LATER), a_rule(DENY, expires_at=SOON), True),
        (a_rule(DENY, expires_at=SOON), a_rule(DENY), False),
        (a_rule(ALLOW), a_rule(ALLOW, expires_at=SOON), False),
        (a_rule(ALLOW), a_rule(DENY, expires_at=SOON), False),
        (a_rule(ALLOW, tool_id=TOOL, expires_at=SOON), a_rule(ALLOW, tool_id=TOOL), True),
        (a_rule(DENY), a_rule(DENY, agent_id=ANN), True),
        (a_rule(DENY), a_rule(DENY, min_risk=Risk.HIGH), True),
        (a_rule(ALLOW, agent_id=ANN), a_rule(ALLOW, agent_id=ANN, tool_id=TOOL), True),
        (a_rule(ALLOW, tool_id=TOOL), a_rule(ALLOW, agent_id=ANN, server_id=ServerId("s")), True),
        (a_rule(ALLOW, tool_id=TOOL), a_rule(DENY), False),
    ],
)
def test_a_changed_rule_loosens_where_it_says_less(
    before: Rule, after: Rule, loosens: bool
) -> None:
    others = [a_rule(LOG, tool_pattern="*"), a_rule(LOG)]
    assert rule_loosens(before, after, others, ALLOW) is loosens


def an_override(action: Action, agent_id: AgentId | None = None) -> Override:
    return Override("ovr_1", ServerId("srv_1"), "p", action, agent_id, "why", LATER)


@pytest.mark.parametrize(
    ("before", "after", "others", "loosens"),
    [
        (None, an_override(ALLOW), [], True),
        (None, an_override(LOG), [], True),
        (None, an_override(ASK), [], False),
        (None, an_override(DENY), [], False),
        (None, an_override(ASK, ANN), [an_override(DENY)], True),
        (None, an_override(ASK, ANN), [an_override(DENY, BOB)], False),
        (an_override(DENY), None, [], True),
        (an_override(ALLOW), None, [], False),
        (an_override(DENY, ANN), None, [an_override(DENY)], True),  # the template asks
        (an_override(ASK, ANN), None, [an_override(ALLOW)], True),
        (an_override(ASK, ANN), None, [an_override(ALLOW, BOB)], False),
    ],
)
def test_an_override_of_a_policy_that_asks(
    before: Override | None, after: Override | None, others: list[Override], loosens: bool
) -> None:
    assert override_loosens(before, after, others, ASK) is loosens


@pytest.mark.parametrize(
    ("name", "mild", "strict"),
    [
        ("default_action", "ALLOW", "LOG_ONLY"),
        ("default_action", "REQUIRE_APPROVAL", "DENY"),
        ("enforcement", "monitor", "enforce"),
        ("unknown_tools", "ask", "deny"),
        ("unknown_tools", "allow", "ask"),
        ("on_tool_change", "alert", "block"),
        ("key_approvers", True, False),
        ("weakening", "allowed", "second_person"),
        ("weakening", "second_person", "forbidden"),
    ],
)
def test_a_setting_loosens_in_one_direction(name: str, mild: object, strict: object) -> None:
    assert loosened_settings({name: strict, "name": "x"}, {name: mild, "name": "y"}) == [name]
    assert loosened_settings({name: mild}, {name: strict}) == []
    assert loosened_settings({name: mild}, {name: mild}) == []


def test_a_budget_loosens_when_more_may_pass() -> None:
    budget = {"limit": 10, "on_exceed": "APPROVAL", "warn_at": 80}
    assert budget_loosens(budget, None)
    assert budget_loosens(budget, budget | {"limit": 11})
    assert budget_loosens(budget, budget | {"on_exceed": "WARN"})
    assert not budget_loosens(budget, budget | {"limit": 9, "on_exceed": "BLOCK", "warn_at": 90})
    warning = budget | {"on_exceed": "WARN"}
    assert not budget_loosens(warning, None)
    assert not budget_loosens(warning, budget)


PRICED = {"price": 5, "argument": "total", "decimal_string": False, "cap": 100}


@pytest.mark.parametrize(
    ("before", "after", "loosens"),
    [
        (None, PRICED, False),
        (PRICED, None, True),
        (PRICED, PRICED, False),
        (PRICED, PRICED | {"price": 6, "cap": 99}, False),
        (PRICED, PRICED | {"price": 4}, True),
        (PRICED, PRICED | {"argument": None}, True),
        (PRICED, PRICED | {"argument": "tip"}, True),
        (PRICED, PRICED | {"decimal_string": True}, True),
        (PRICED, PRICED | {"cap": 101}, True),
        (PRICED, PRICED | {"cap": None}, True),
        (PRICED | {"cap": None}, PRICED, False),
        (PRICED | {"argument": None}, PRICED, False),
    ],
)
def test_a_cost_loosens_when_a_call_may_count_for_less(
    before: dict[str, object] | None, after: dict[str, object] | None, loosens: bool
) -> None:
    assert cost_loosens(before, after) is loosens
