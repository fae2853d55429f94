"""Decision → Allowed: a denial binds, unless the project or server only monitors."""

from collections.abc import Sequence

from gateway.refusals import Refused
from gateway.values import Action, Allowed, Approved, Decision

_BY_DEFAULT = ("gateway.default",)


def enforce(decision: Decision) -> Allowed:
    """Raises `Refused`."""
    if decision.enforced and decision.verdict.action is Action.DENY:
        policy_ids = list(decision.verdict.policy_ids)
        raise Refused("policy_denied", {"policy_ids": policy_ids}, decided=decision)
    return Allowed(decision)


def strictest(asked: Sequence[Approved]) -> Approved:
    """Of answers to one call under its tool's several names, the one that binds.

    A name that no policy knows says nothing about a tool that another name says something about.
    """
    known = [a for a in asked if a.decision.verdict.policy_ids != _BY_DEFAULT] or asked
    order = list(Action)
    return max(known, key=lambda a: (a.needs_grant, order.index(a.decision.verdict.action)))
