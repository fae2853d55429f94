"""What a record says of a call, what is kept encrypted beside it, and what is not kept at all."""

import hashlib
from typing import Any

import orjson
import pytest

from gateway.event import Event
from gateway.records.calls import (
    MAX_IDS,
    decision_draft,
    message_draft,
    outcome_draft,
    refusal_draft,
)
from gateway.refusals import Refused
from gateway.trace.record import Draft, bounded
from gateway.values import Action, Decision, Era, Risk
from tests.builders import (
    a_call,
    a_caller,
    a_decision,
    a_permit,
    a_project,
    a_verdict,
    an_approved,
    an_outcome,
)

ALL_NAMES = tuple(f"policy.{n}" for n in range(MAX_IDS + 1))


def a_decided(action: Action = Action.ALLOW, *, kept: str = "all", **changes: Any) -> Decision:
    call = a_call(caller=a_caller(project=a_project(record_inputs=kept)))
    return a_decision(call, action, **changes)


def forwarded(decision: Decision, **more: Any) -> Draft:
    given = {"refused": None, "approval_id": None, "holds": 0, **more}
    return decision_draft(an_approved(decision), **given)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("kept", ["all", "log_only", "none"])
def test_a_project_says_whose_input_is_kept(kept: str, action: Action) -> None:
    decision = a_decided(action, kept=kept)
    keeps = kept == "all" or (kept == "log_only" and action is Action.LOG_ONLY)
    refused = Refused("policy_denied", decided=decision)
    for draft in (forwarded(decision), refusal_draft(decision.call, refused, decision)):
        assert ("input" in draft.payloads) == keeps
        assert draft.payloads.get("input", decision.policy_input) == decision.policy_input


@pytest.mark.parametrize(
    ("action", "kept", "names", "why"),
    [
        (Action.ALLOW, "all", ALL_NAMES[:1], False),  # follows from the input again
        (Action.ALLOW, "none", ALL_NAMES[:1], True),
        (Action.ALLOW, "all", ALL_NAMES, True),
        (Action.DENY, "all", ALL_NAMES[:1], True),
        (Action.LOG_ONLY, "all", ALL_NAMES[:1], True),
    ],
)
def test_why_is_kept_unless_it_follows_from_what_is(
    action: Action, kept: str, names: tuple[str, ...], why: bool
) -> None:
    draft = forwarded(a_decided(kept=kept, verdict=a_verdict(action, policy_ids=names)))
    told = {"reasons": ["because"], "policy_ids": list(names)}
    assert orjson.loads(draft.payloads.get("why", b"null")) == (told if why else None)
    assert draft.fields["rules"] == list(names[:MAX_IDS])


def test_no_reason_is_no_payload() -> None:
    draft = forwarded(a_decided(verdict=a_verdict(Action.DENY, reasons=())))
    assert "why" not in draft.payloads


@pytest.mark.parametrize(
    ("reason", "risk", "urgent"),
    [
        (None, Risk.LOW, False),
        (None, Risk.MEDIUM, False),
        (None, Risk.HIGH, True),
        (None, Risk.CRITICAL, True),
        ("policy_denied", Risk.LOW, True),
        ("emergency_stop", Risk.LOW, True),
        ("budget_exceeded", Risk.LOW, True),
        ("approval_denied", Risk.LOW, True),
        ("approval_expired", Risk.LOW, True),
        ("approval_required", Risk.LOW, False),
        ("approval_required", Risk.HIGH, True),
        ("trace_unavailable", Risk.LOW, False),
    ],
)
def test_what_is_risky_or_blocked_is_anchored_at_once(
    reason: str | None, risk: Risk, urgent: bool
) -> None:
    decision = a_decided(risk=risk)
    refused = None if reason is None else Refused(reason)
    drafts = [forwarded(decision, refused=refused)]
    if refused is not None:
        drafts.append(refusal_draft(decision.call, refused, decision))
    for draft in drafts:
        assert draft.fields.get("anchor") == ("urgent" if urgent else None)
        assert draft.fields["effect"] == ("forward" if refused is None else "refuse")
        assert draft.fields.get("reason_code") == reason


@pytest.mark.parametrize(
    ("action", "over", "urgent"),
    [(Action.DENY, (), True), (Action.ALLOW, ("bud_1",), True), (Action.ALLOW, (), False)],
)
def test_what_monitor_mode_lets_go_is_anchored_as_if_it_had_not(
    action: Action, over: tuple[str, ...], urgent: bool
) -> None:
    draft = forwarded(a_decided(action, enforced=False), over=over)
    assert draft.fields.get("anchor") == ("urgent" if urgent else None)
    assert draft.fields.get("over") == (list(over) or None)
    assert "anchor" not in forwarded(a_decided(), over=("bud_1",)).fields  # a budget that warns


def test_holds_and_approval_are_named_when_there_are_any() -> None:
    assert not {"holds", "approval"} & forwarded(a_decided()).fields.keys()
    draft = forwarded(a_decided(), holds=2, approval_id="apr_1")
    assert (draft.fields["holds"], draft.fields["approval"]) == (2, "apr_1")


def test_a_name_that_is_too_long_for_a_record_is_kept_whole_beside_it() -> None:
    long = "t" * 1000
    for name, kept in ((long, long.encode()), ("query", None)):
        call = a_call(tool_name=name)
        draft = refusal_draft(call, Refused("policy_denied", detail="no such"), None)
        assert draft.fields["tool"] == bounded(name)
        assert draft.payloads.get("tool") == kept
        assert draft.payloads["detail"] == b"no such"


@pytest.mark.parametrize("body", [b"", b'{"text":"hi"}'])
def test_an_events_body_is_kept_where_there_is_one(body: bytes) -> None:
    event = Event("ext_1", "e-1", "tool", "LOW", {"platform": "p"}, body)
    call = a_call(event=event, session="s-1")
    drafts = [forwarded(a_decision(call)), refusal_draft(call, Refused("internal"), None)]
    for draft in drafts:
        assert draft.payloads.get("event") == (body or None)
        told = {n: draft.fields[n] for n in ("source", "event", "platform", "attested")}
        assert told == {"source": "ext_1", "event": "e-1", "platform": "p", "attested": False}
        assert draft.fields["session"] == hashlib.sha256(b"s-1").hexdigest()[:32]


@pytest.mark.parametrize("kept", ["all", "log_only", "none"])
@pytest.mark.parametrize("refused", [None, Refused("policy_denied", detail="d")])
def test_a_message_is_recorded_as_a_call_is(kept: str, refused: Refused | None) -> None:
    caller = a_caller(project=a_project(record_inputs=kept))
    verdict = a_verdict(Action.DENY if refused else Action.ALLOW)
    draft = message_draft(
        caller, Era.MODERN, "resources/read", "client", verdict, True, refused, b"{}"
    )
    assert ("input" in draft.payloads) == (kept == "all")
    assert orjson.loads(draft.payloads["why"])["reasons"] == ["because"]
    assert draft.fields.get("anchor") == ("urgent" if refused else None)
    assert ("detail" in draft.payloads) == (refused is not None)


@pytest.mark.parametrize("action", [Action.ALLOW, Action.LOG_ONLY])
def test_a_result_is_kept_of_log_only_and_committed_to_of_all_others(action: Action) -> None:
    permit = a_permit(an_approved(a_decision(action=action)))
    draft = outcome_draft(permit, an_outcome(result=b"the answer"))
    kept, committed = draft.payloads, draft.commits
    if action is not Action.LOG_ONLY:
        kept, committed = committed, kept
    assert (dict(kept), dict(committed)) == ({"result": b"the answer"}, {})
    empty = outcome_draft(permit, an_outcome(result=b""))
    assert (dict(empty.payloads), dict(empty.commits)) == ({}, {})


def test_an_outcome_says_only_what_there_is_to_say() -> None:
    plain = outcome_draft(a_permit(), an_outcome()).fields
    optional = {"truncated", "result_sha256", "error_code", "redacted", "response_policies"}
    assert not (optional | {"labels"}) & plain.keys()
    full = outcome_draft(
        a_permit(),
        an_outcome(
            result_sha256="a" * 64,
            error_code="-32000",
            redacted=True,
            response_policies=ALL_NAMES,
            labels=("pii",),
        ),
    ).fields
    assert (full["truncated"], full["result_sha256"]) == (True, "a" * 64)
    assert full["error_code"] == "-32000"
    assert (full["redacted"], full["labels"]) == (True, ["pii"])
    assert full["response_policies"] == list(ALL_NAMES[:MAX_IDS])
