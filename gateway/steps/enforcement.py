"""Decision → Allowed: a denial binds, unless the project or server only monitors."""

from gateway.refusals import Refused
from gateway.values import Action, Allowed, Decision


def enforce(decision: Decision) -> Allowed:
    """Raises `Refused`."""
    if decision.enforced and decision.verdict.action is Action.DENY:
        policy_ids = list(decision.verdict.policy_ids)
        raise Refused("policy_denied", {"policy_ids": policy_ids}, decided=decision)
    return Allowed(decision)
