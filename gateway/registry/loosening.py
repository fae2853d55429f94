"""Which changes loosen: pure, and when in doubt yes. `gateway.registry.weakening` governs them.

A change loosens when some call, decided by the project's own rules, overrides and settings, may be
answered more mildly after it than before.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from gateway.values import Action, Override, Rule

_ACTIONS = list(Action)
_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "default_action": tuple(_ACTIONS),
    "enforcement": ("monitor", "enforce"),
    "unknown_tools": ("allow", "ask", "deny"),
    "on_tool_change": ("alert", "block"),
    "key_approvers": (True, False),
    "weakening": ("allowed", "second_person", "forbidden"),
    "breaker_action": ("ask", "pause", "suspend"),
}
"""Each setting's values, from the mildest."""
_LIMITS = ("breaker_repeats", "breaker_refusals")
"""Settings that are stricter the smaller they are; None is no limit."""
_ON_EXCEED = ("WARN", "APPROVAL", "BLOCK")
_NEVER = "9999"


def rule_loosens(
    before: Rule | None, after: Rule | None, others: Iterable[Rule], default: Action
) -> bool:
    """Whether a rule's change loosens; None is a rule that is not there, or not in force.

    ``others`` are the project's other rules in force, ``default`` is its action without any.
    """
    if before is not None and after is not None and _reach(before) == _reach(after):
        return (
            _milder(after.action, before.action)
            or (_ends(after) < _ends(before) and before.action is not Action.ALLOW)
            or (_ends(after) > _ends(before) and _outranks(after, others, default))
        )
    gives_way = before is not None and before.action is not Action.ALLOW
    return gives_way or (after is not None and _outranks(after, others, default))


def override_loosens(
    before: Override | None, after: Override | None, others: Iterable[Override], declared: Action
) -> bool:
    """Whether an override's coming or going loosens.

    ``others`` are those in force for the same policy and server, ``declared`` is the action that
    the template names for it.
    """
    override = after or before
    assert override is not None
    beside = [
        other.action
        for other in others
        if None in (other.agent_id, override.agent_id) or other.agent_id == override.agent_id
    ]
    if after is not None:
        return any(_milder(after.action, action) for action in (declared, *beside))
    return any(_milder(action, override.action) for action in (declared, *beside))


def loosened_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings of a project or server that ``after`` makes milder; it holds all that change."""
    milder = [
        name
        for name, values in _SETTINGS.items()
        if name in after and values.index(after[name]) < values.index(before[name])
    ]
    return milder + [
        name for name in _LIMITS if name in after and _limit(after[name]) > _limit(before[name])
    ]


def budget_loosens(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> bool:
    """Whether a budget's change, or with None its removal, lets more pass. WARN stops nothing."""
    if before["on_exceed"] == "WARN":
        return False
    if after is None:
        return True
    milder = _ON_EXCEED.index(after["on_exceed"]) < _ON_EXCEED.index(before["on_exceed"])
    return milder or bool(after["limit"] > before["limit"])


def cost_loosens(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> bool:
    """Whether calls of a tool may cost less than before, or more at once."""
    if before is None:
        return False
    if after is None or after["price"] < before["price"]:
        return True
    if before["argument"] is None:
        return False
    if any(after[name] != before[name] for name in ("argument", "decimal_string")):
        return True
    return before["cap"] is not None and (after["cap"] is None or after["cap"] > before["cap"])


def _limit(value: int | None) -> float:
    return inf if value is None else value


def _milder(one: Action, other: Action) -> bool:
    return _ACTIONS.index(one) < _ACTIONS.index(other)


def _ends(rule: Rule) -> str:
    return rule.expires_at or _NEVER


def _reach(rule: Rule) -> tuple[object, ...]:
    return rule.agent_id, rule.server_id, rule.tool_id, rule.tool_pattern, rule.min_risk


def _rank(rule: Rule) -> tuple[bool, ...]:
    """How specific a rule is, as `data.gateway.rules` orders them."""
    if rule.tool_id is not None:
        return True, False, rule.agent_id is not None, False
    return (
        False,
        rule.tool_pattern is not None,
        rule.agent_id is not None,
        rule.server_id is not None,
    )


def _outranks(rule: Rule, others: Iterable[Rule], default: Action) -> bool:
    """Whether the rule may decide more mildly what another, or none, decides without it."""
    if rule.action is _ACTIONS[-1]:
        return False  # nothing is stricter, so the others need not be read
    return _milder(rule.action, default) or any(
        _milder(rule.action, other.action) and _rank(rule) > _rank(other) and _meet(rule, other)
        for other in others
    )


def _meet(one: Rule, other: Rule) -> bool:
    """Whether one call may match both. Patterns and risks may always meet."""
    return all(
        None in pair or pair[0] == pair[1]
        for pair in (
            (one.agent_id, other.agent_id),
            (one.server_id, other.server_id),
            (one.tool_id, other.tool_id),
        )
    )
