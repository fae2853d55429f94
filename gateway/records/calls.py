"""What the trace keeps of a call: its decision, whatever it was, and its outcome.

Records hold codes, ids and bounded names. Inputs, reasons and results are payloads: encrypted
beside the log and erasable.
"""

import hashlib
from collections.abc import Sequence

import orjson

from gateway.event import Event
from gateway.ids import new_id
from gateway.records.outcome import Outcome
from gateway.refusals import Refused
from gateway.trace.record import Draft, Field, bounded
from gateway.values import Action, Approved, Call, Caller, Decision, Era, Permit, Risk, Verdict

MAX_IDS = 32
"""Policy ids that a record names; all of them are in the payload."""

URGENT_RISKS = frozenset({Risk.HIGH, Risk.CRITICAL})
_BLOCKED_CODES = frozenset({-31001, -31002, -31003, -31005, -31008})
_BLOCKED_APPROVALS = frozenset({"approval_denied", "approval_expired"})


def _who(call: Call) -> dict[str, Field]:
    caller = call.caller
    fields: dict[str, Field] = {
        "server": caller.server.id,
        "tool": bounded(call.tool_name),
        "key": caller.key.id,
        "agent": caller.agent.id if caller.agent else None,
        "source": call.source,
        "era": call.era.value,
    }
    if call.event is not None:
        fields |= said_of(call.event)
    if caller.asserted:
        fields["asserted"] = True
    if call.session is not None:
        fields["session"] = hashlib.sha256(call.session.encode()).hexdigest()[:32]
    return fields


def said_of(event: Event) -> dict[str, Field]:
    """What a record says of an event: who sent it, and that nobody attests it."""
    fields: dict[str, Field] = {name: bounded(text) for name, text in event.codes.items()}
    fields |= {"event": bounded(event.id), "event_type": bounded(event.type), "attested": False}
    if event.sender.startswith("ext_"):
        fields["source"] = event.sender
    return fields


def _decided(decision: Decision) -> tuple[dict[str, Field], dict[str, bytes]]:
    verdict = decision.verdict
    tool = decision.pinned.tool
    project = decision.call.caller.project
    fields: dict[str, Field] = {
        "decision": verdict.action.value,
        "enforced": decision.enforced,
        "risk": decision.risk.value,
        "policy": verdict.bundle_digest,
        "rules": [bounded(policy_id) for policy_id in verdict.policy_ids[:MAX_IDS]],
        "tool_hash": tool.definition_sha256 if tool else None,
        "tool_description": tool.description_sha256 if tool else None,
    }
    payloads: dict[str, bytes] = {}
    keeps_input = project.record_inputs == "all" or (
        project.record_inputs == "log_only" and verdict.action is Action.LOG_ONLY
    )
    if keeps_input:
        payloads["input"] = decision.policy_input
    # Why a call was allowed follows from its input and bundle again; why not is kept as it was.
    many = len(verdict.policy_ids) > MAX_IDS
    plain = verdict.action is Action.ALLOW and keeps_input and not many
    if (verdict.reasons or many) and not plain:
        why = {"reasons": verdict.reasons, "policy_ids": verdict.policy_ids}
        payloads["why"] = orjson.dumps(why)
    return fields, payloads


def decision_draft(
    approved: Approved,
    refused: Refused | None,
    approval_id: str | None,
    holds: int,
    over: Sequence[str] = (),
) -> Draft:
    """A decision that came as far as admission, forwarded or refused there.

    ``over`` are the budgets that the call exceeds and that did not stop it.
    """
    decision = approved.decision
    call = decision.call
    fields, payloads = _decided(decision)
    fields |= _who(call)
    if approval_id is not None:
        fields["approval"] = approval_id
    if holds:
        fields["holds"] = holds
    if over:
        fields["over"] = list(over[:MAX_IDS])
    _told(call, payloads)
    _blocked(fields, payloads, refused)
    would_block = not decision.enforced and (decision.verdict.action is Action.DENY or bool(over))
    if would_block or _is_urgent(refused, decision):
        fields["anchor"] = "urgent"
    return _draft(call, "decision", call.id, fields, payloads)


def refusal_draft(call: Call, refused: Refused, decision: Decision | None) -> Draft:
    """A call refused before admission: by a stop, a pin, the policy, a budget or a fault."""
    fields: dict[str, Field] = {"decision": Action.DENY.value}
    payloads: dict[str, bytes] = {}
    if decision is not None:
        fields, payloads = _decided(decision)
    fields |= _who(call)
    if _is_urgent(refused, decision):
        fields["anchor"] = "urgent"
    _told(call, payloads)
    _blocked(fields, payloads, refused)
    if bounded(call.tool_name) != call.tool_name:
        payloads["tool"] = call.tool_name.encode()
    return _draft(call, "decision", call.id, fields, payloads)


def _told(call: Call, payloads: dict[str, bytes]) -> None:
    if call.event is not None and call.event.body:
        payloads["event"] = call.event.body


def _is_urgent(refused: Refused | None, decision: Decision | None) -> bool:
    """Risky, or BLOCKED; a call that waits for a person or met a fault of ours is neither."""
    if decision is not None and decision.risk in URGENT_RISKS:
        return True
    return refused is not None and (
        refused.code in _BLOCKED_CODES or refused.reason in _BLOCKED_APPROVALS
    )


def _blocked(fields: dict[str, Field], payloads: dict[str, bytes], refused: Refused | None) -> None:
    if refused is None:
        fields["effect"] = "forward"
        return
    fields["effect"] = "refuse"
    fields["reason_code"] = refused.reason
    if refused.detail:
        payloads["detail"] = refused.detail.encode()


def message_draft(
    caller: Caller,
    era: Era,
    method: str,
    by: str,
    verdict: Verdict,
    enforced: bool,
    refused: Refused | None,
    question: bytes,
) -> Draft:
    """A decision about a message that is no tool call."""
    project = caller.project
    fields: dict[str, Field] = {
        "server": caller.server.id,
        "key": caller.key.id,
        "agent": caller.agent.id if caller.agent else None,
        "source": "mcp",
        "era": era.value,
        "method": bounded(method),
        "from": by,
        "decision": verdict.action.value,
        "enforced": enforced,
        "policy": verdict.bundle_digest,
        "rules": [bounded(policy_id) for policy_id in verdict.policy_ids[:MAX_IDS]],
    }
    payloads: dict[str, bytes] = {}
    if project.record_inputs == "all":
        payloads["input"] = question
    if verdict.reasons:
        why = {"reasons": verdict.reasons, "policy_ids": verdict.policy_ids}
        payloads["why"] = orjson.dumps(why)
    _blocked(fields, payloads, refused)
    if refused is not None:
        fields["anchor"] = "urgent"
    return Draft(
        kind="message",
        id=new_id("trc"),
        project_id=project.id,
        fields=fields,
        payloads=payloads,
        retention_days=project.retention_days,
    )


def outcome_draft(permit: Permit, outcome: Outcome) -> Draft:
    """What became of a permitted call; LOG_ONLY keeps the result, all others a commitment."""
    call = permit.call
    decision = permit.approved.decision
    fields: dict[str, Field] = {
        "server": call.caller.server.id,
        "tool": bounded(call.tool_name),
        "agent": call.caller.agent.id if call.caller.agent else None,
        "risk": decision.risk.value,
        "fate": outcome.fate.value,
        "status": outcome.status,
        "dur_us": outcome.duration_us,
        "result_size": outcome.result_size,
    }
    if outcome.result_sha256:
        fields |= {"truncated": True, "result_sha256": outcome.result_sha256}
    if outcome.error_code:
        fields["error_code"] = outcome.error_code
    if outcome.redacted:
        fields["redacted"] = True
    if outcome.response_policies:
        named = [bounded(policy_id) for policy_id in outcome.response_policies[:MAX_IDS]]
        fields["response_policies"] = named
    if outcome.labels:
        fields["labels"] = [bounded(label) for label in outcome.labels[:MAX_IDS]]
    keeps = decision.verdict.action is Action.LOG_ONLY
    result = {"result": outcome.result} if outcome.result else {}
    return _draft(
        call,
        "outcome",
        new_id("trc"),
        fields,
        result if keeps else {},
        {} if keeps else result,
    )


def _draft(
    call: Call,
    kind: str,
    record_id: str,
    fields: dict[str, Field],
    payloads: dict[str, bytes],
    commits: dict[str, bytes] | None = None,
) -> Draft:
    project = call.caller.project
    return Draft(
        kind=kind,
        id=record_id,
        project_id=project.id,
        fields=fields,
        payloads=payloads,
        commits=commits or {},
        call_id=call.id,
        retention_days=project.retention_days,
    )
