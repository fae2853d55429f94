"""Holds OPA's answers to their contract."""

from typing import Any

from gateway.policy.engine import EngineAnswer, EngineFault
from gateway.values import Action, Verdict

_ACTIONS = {str(action): action for action in Action}


def verdict_of(answer: EngineAnswer) -> Verdict:
    """Raises `EngineFault`: a half-understood verdict is none."""
    result = answer.result
    if not isinstance(result, dict):
        raise EngineFault("the policy's answer is no object")
    action = result.get("action")
    if not isinstance(action, str) or action not in _ACTIONS:
        raise EngineFault(f"the policy's action is {action!r}")
    return Verdict(
        action=_ACTIONS[action],
        policy_ids=tuple(_listed(result, "policy_ids", str)),
        reasons=tuple(_listed(result, "reasons", str)),
        obligations=tuple(_listed(result, "obligations", dict)),
        bundle_digest=answer.bundle_digest,
    )


def _listed(result: dict[str, Any], name: str, kind: type) -> list[Any]:
    values = result.get(name)
    if not isinstance(values, list):
        raise EngineFault(f"the policy's {name} are no list of {kind.__name__}")
    for value in values:
        if not isinstance(value, kind):
            raise EngineFault(f"the policy's {name} are no list of {kind.__name__}")
    return values
