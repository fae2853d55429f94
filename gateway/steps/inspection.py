"""Permit, Forwarded → Inspected: what the answer is, and what the trace is told of it."""

import hashlib
import time
from dataclasses import replace
from typing import Literal

import jiter

from gateway.answers import refused_call
from gateway.flows import EventStream
from gateway.frozen import frozen
from gateway.mcp.screening import About, Notes, ScreenedEvents, Screening
from gateway.records.outcome import Outcome
from gateway.refusals import Refused
from gateway.values import Answer, Fate, Forwarded, Permit

MAX_RESULT = 1024 * 1024
"""Bytes of a result that the trace keeps or commits to; then its SHA-256 too."""

Status = Literal["ok", "tool_error", "rpc_error", "http_error", "cut", "unknown", "not_sent"]


@frozen
class Inspected:
    """An answer ready to go. With `events` its outcome is known only once they have passed."""

    permit: Permit
    answer: Answer
    outcome: Outcome
    events: EventStream | None
    started: float
    notes: Notes | None = None
    """What response policies found, where one looks; complete once the events have passed."""


class Inspection:
    def __init__(self, screening: Screening) -> None:
        self._screening = screening

    async def screen(self, inspected: Inspected) -> Inspected:
        """Ask the response policies about an upstream's answer, if any of them looks at it."""
        call = inspected.permit.call
        tool = inspected.permit.approved.decision.pinned.tool
        about = About(call.caller, call.tool_name, tool, "tools/call")
        if inspected.outcome.error_code or not self._screening.covers(about):
            return inspected
        notes = Notes()
        if inspected.events is not None:
            events = ScreenedEvents(
                inspected.events, self._screening, about, call.rpc_id, notes, call.id
            )
            return replace(inspected, events=events, notes=notes)
        if not inspected.answer.body:
            return inspected
        screened = await self._screening.screen(inspected.answer.body, about)
        notes.add(screened)
        noted = _noted(inspected.outcome, notes)
        if screened.reason:
            return replace(withheld(inspected, screened.reason), outcome=noted)
        answer = replace(inspected.answer, body=screened.message)
        return replace(inspected, answer=answer, outcome=noted)

    def inspect(self, permit: Permit, forwarded: Forwarded, started: float) -> Inspected:
        """``started``: `time.monotonic()` when the call was handed to the upstream."""
        if forwarded.reason:
            return self._no_answer(permit, forwarded, started)
        headers = _headers(permit, forwarded)
        if forwarded.stream is not None:
            answer = Answer(forwarded.status, headers)
            pending = _outcome(Fate.UNKNOWN, "unknown", b"", started)
            return Inspected(permit, answer, pending, forwarded.stream, started)
        body = forwarded.body or b""
        status = _status(body) if 200 <= forwarded.status < 300 else "http_error"
        if forwarded.fate is Fate.NOT_FORWARDED:
            status = "not_sent"
        outcome = _outcome(forwarded.fate, status, body, started)
        return Inspected(permit, Answer(forwarded.status, headers, body), outcome, None, started)

    def _no_answer(self, permit: Permit, forwarded: Forwarded, started: float) -> Inspected:
        data = {"budget_warnings": list(permit.warnings)} if permit.warnings else {}
        refused = Refused(forwarded.reason, data, leaf=permit.leaf)
        answer = refused_call(permit.call, refused, permit.call.id)
        answer = replace(answer, headers=(*answer.headers, *_warning(permit)))
        status: Status = "unknown"
        if forwarded.fate is Fate.NOT_FORWARDED:
            status = "not_sent"
        elif forwarded.fate is Fate.ANSWERED:
            status = "http_error"
        outcome = _outcome(forwarded.fate, status, b"", started, forwarded.reason)
        return Inspected(permit, answer, outcome, None, started)


def withheld(inspected: Inspected, reason: str) -> Inspected:
    """The call was made, and what it answered does not pass."""
    permit = inspected.permit
    answer = refused_call(permit.call, Refused(reason, leaf=permit.leaf), permit.call.id)
    outcome = replace(inspected.outcome, error_code=reason)
    return replace(inspected, answer=answer, outcome=outcome, events=None)


def outcome_of_stream(inspected: Inspected, events: EventStream) -> Outcome:
    """The outcome once the response came by, or once the stream ended without it."""
    outcome = _of_stream(inspected.started, events)
    return outcome if inspected.notes is None else _noted(outcome, inspected.notes)


def _noted(outcome: Outcome, notes: Notes) -> Outcome:
    return replace(
        outcome,
        error_code=notes.reason or outcome.error_code,
        response_policies=tuple(sorted(notes.policy_ids)),
        labels=tuple(sorted(notes.labels)),
        redacted=notes.redacted,
    )


def _of_stream(started: float, events: EventStream) -> Outcome:
    if events.response:
        return _outcome(Fate.ANSWERED, _status(events.response), events.response, started)
    if events.ended in ("oversize", "withheld"):
        why = "answer_too_large" if events.ended == "oversize" else "answer_withheld"
        return _outcome(Fate.ANSWERED, "unknown", b"", started, why)
    status: Status = "cut" if events.ended == "cut" else "unknown"
    return _outcome(Fate.UNKNOWN, status, b"", started, f"stream_{events.ended or 'closed'}")


def _headers(permit: Permit, forwarded: Forwarded) -> tuple[tuple[bytes, bytes], ...]:
    headers = (
        *forwarded.headers,
        (b"x-trace-id", permit.call.id.encode()),
        (b"x-trace-leaf", permit.leaf.hex().encode()),
    )
    return (*headers, *_warning(permit))


def _warning(permit: Permit) -> tuple[tuple[bytes, bytes], ...]:
    """Of budgets that are over and let the call pass all the same."""
    if not permit.warnings:
        return ()
    return ((b"x-budget-warning", ",".join(permit.warnings).encode()),)


def _outcome(
    fate: Fate, status: Status, result: bytes, started: float, error_code: str = ""
) -> Outcome:
    over = len(result) > MAX_RESULT
    return Outcome(
        fate=fate,
        status=status,
        result=result[:MAX_RESULT],
        result_size=len(result),
        result_sha256=hashlib.sha256(result).hexdigest() if over else "",
        error_code=error_code,
        duration_us=int((time.monotonic() - started) * 1_000_000),
    )


def _status(response: bytes) -> Status:
    if response[:64].lstrip()[:1] != b"{":
        return "unknown"
    # The bytes of an ordinary result show that it is no error; only the others are parsed.
    if b'"error"' not in response and b"isError" not in response and b"\\u" not in response:
        return "ok"
    try:
        message = jiter.from_json(response)
    except ValueError:
        return "unknown"
    if not isinstance(message, dict):
        return "unknown"
    if "error" in message:
        return "rpc_error"
    result = message.get("result")
    if isinstance(result, dict) and result.get("isError") is True:
        return "tool_error"
    return "ok"
