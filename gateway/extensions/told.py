"""What whoever asked is told: the verdict of a call, fresh or as its record has kept it. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from gateway.dry_run import Looked
from gateway.frozen import frozen
from gateway.refusals import REASONS, Refused
from gateway.values import Action, Decision, Permit

Verdict = Literal["PASSED", "FLAGGED", "PENDING_APPROVAL", "BLOCKED", "RECORDED"]

_WAITING = frozenset({"approval_required", "approval_expired"})
_MONITOR = "Monitor mode: nothing is refused by policy."
FAULTS = frozenset(
    {
        *("policy_unavailable", "internal", "stop_unreadable", "not_forwarded"),
        *("trace_unavailable", "rate_limited"),
    }
)
"""Refusals that say nothing of the call: asked again, it is decided anew."""


@frozen
class Told:
    """One event's answer; `reason_code` is empty, or a key of `gateway.refusals.REASONS`."""

    trace_id: str
    decision: Verdict
    enforceable: bool = True
    reason: str = ""
    reason_code: str = ""
    policy_id: str | None = None
    risk_level: str | None = None
    approval_id: str | None = None
    expires_at: str | None = None
    failed_open: bool = False

    @property
    def status(self) -> int:
        """HTTP: a report is always taken, so that no platform sends it again for a verdict."""
        if not self.enforceable:
            return 202
        if self.reason_code in FAULTS and not self.failed_open:
            return 503
        return {"PENDING_APPROVAL": 202, "BLOCKED": 403}.get(self.decision, 200)

    @property
    def passes(self) -> bool:
        return self.decision in ("PASSED", "FLAGGED")

    def body(self, event_id: str) -> dict[str, Any]:
        return {"event_id": event_id, **asdict(self)}


def permitted(permit: Permit) -> Told:
    decision = permit.approved.decision
    flagged = decision.verdict.action is Action.LOG_ONLY
    return Told(
        trace_id=permit.call.id,
        decision="FLAGGED" if flagged else "PASSED",
        reason="" if decision.enforced else _MONITOR,
        policy_id=_policy(decision),
        risk_level=decision.risk.value,
    )


def refused(trace_id: str, why: Refused) -> Told:
    decision = why.decided if isinstance(why.decided, Decision) else None
    found = why.data.get("policy_ids")
    return Told(
        trace_id=trace_id,
        decision="PENDING_APPROVAL" if why.reason in _WAITING else "BLOCKED",
        reason=why.message,
        reason_code=why.reason,
        policy_id=_policy(decision) if decision else (found[0] if found else None),
        risk_level=decision.risk.value if decision else None,
        approval_id=why.data.get("approval_id"),
        expires_at=why.data.get("expires_at"),
    )


def would(trace_id: str, looked: Looked | None, reason: str) -> Told:
    """Of a call that has happened: ``reason`` is what would have refused it, or empty."""
    decision = looked.decision if looked is not None else None
    verdict: Verdict = "PASSED"
    if reason:
        verdict = "PENDING_APPROVAL" if reason in _WAITING else "BLOCKED"
    elif decision is not None and decision.verdict.action is Action.LOG_ONLY:
        verdict = "FLAGGED"
    return Told(
        trace_id=trace_id,
        decision=verdict,
        enforceable=False,
        reason=REASONS[reason].message if reason else "",
        reason_code=reason,
        policy_id=_policy(decision) if decision else None,
        risk_level=decision.risk.value if decision else None,
    )


def recorded(trace_id: str) -> Told:
    """Of what is no call, and of an outcome."""
    return Told(trace_id, "RECORDED", enforceable=False)


def from_record(record: Mapping[str, Any], expires_at: str | None) -> Told:
    """As it was told the first time."""
    reason = str(record.get("reason_code") or "")
    verdict: Verdict = "FLAGGED" if record.get("decision") == "LOG_ONLY" else "PASSED"
    if reason and not record.get("failed_open"):
        verdict = "PENDING_APPROVAL" if reason in _WAITING else "BLOCKED"
    enforceable = record.get("enforceable", True)
    passed = "" if record.get("enforced", True) or not enforceable else _MONITOR
    rules = record.get("rules") or [None]
    return Told(
        trace_id=str(record["call"]),
        decision=verdict,
        enforceable=enforceable,
        reason=REASONS[reason].message if reason else passed,
        reason_code=reason,
        policy_id=rules[0],
        risk_level=record.get("risk"),
        approval_id=record.get("approval"),
        expires_at=expires_at,
        failed_open=bool(record.get("failed_open")),
    )


def _policy(decision: Decision) -> str | None:
    return next(iter(decision.verdict.policy_ids), None)
