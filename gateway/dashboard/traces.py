"""Calls and changes as the trace keeps them: a list by filter, and each one's whole story."""

import asyncio
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from gateway.api.anchors import AnchorsOut, FullAnchor
from gateway.api.approvals import OpenedApproval
from gateway.api.errors import ApiError
from gateway.api.evidence import CheckpointOut, EvidenceBody, ProofsOut
from gateway.api.models import Listing
from gateway.api.traces import FullTrace, RecordOut, TraceOut
from gateway.dashboard import forms
from gateway.dashboard.anchored import anchor_of
from gateway.dashboard.names import (
    MOST_DRAWN,
    choices_of,
    few_choices_of,
    names_of,
    policies_of,
)
from gateway.dashboard.page import Page, PageRoute
from gateway.frozen import frozen
from gateway.policy.explain import Explanation, explain
from gateway.policy.sources import BundleFault
from gateway.refusals import REASONS
from gateway.registry import pages, recorded, traces
from gateway.trace.receipts import ChainReceipt
from gateway.values import Risk

_PATH = "/traces"
FILTERS = (
    *("time_range", "from", "to", "decision", "risk", "agent_id", "server_id", "tool"),
    *("kind", "policy_id", "q"),
)
EVERYTHING = "all"
_SIZE = 50
_AN_ID = re.compile(r"(?:trc|evt|req)_[0-9a-f]{32}")
_EVIDENCE = {
    **EvidenceBody.model_json_schema(by_alias=True),
    "properties": {
        name: schema
        for name, schema in EvidenceBody.model_json_schema(by_alias=True)["properties"].items()
        if name != "previous_sizes"
    },
}
_LABELS = {
    "disclose": "With what was kept of calls, opened",
    "leaves": "With every leaf of the log",
    "policies": "With the policies that decided",
}


@frozen
class Step:
    """One line of a call's timeline."""

    ts: str
    title: str
    tone: str
    facts: tuple[tuple[str, str], ...] = ()


async def index(page: Page) -> Response:
    wanted = {"kind": "decision", **_wanted(page)}
    if _AN_ID.fullmatch(wanted.get("q", "")):
        return page.to(f"{_PATH}/{wanted['q']}")
    found, fault = Listing[TraceOut](items=[], next_cursor=None), None
    try:
        found = await _page(page, wanted, page.query.get("cursor"), _SIZE)
    except ApiError as wrong:
        fault = wrong
    events = await _events(page, found.items)
    return page.draw(
        "traces.html",
        200 if fault is None else fault.status,
        title="Traces",
        traces=found.items,
        events=events,
        next_cursor=found.next_cursor,
        wanted=wanted,
        query=urlencode(wanted),
        fault=fault,
        names=names_of(page),
        choices=few_choices_of(page),
        policies=dict(islice(policies_of(page).items(), MOST_DRAWN)),
        reach=pages.REACH,
        risks=[risk.value for risk in Risk],
    )


async def export(page: Page) -> Response:
    """The list as CSV, as far as the filter goes."""
    wanted = {"kind": "decision", **_wanted(page), "format": "csv"}
    asked = {name: value for name, value in wanted.items() if value != EVERYTHING}
    found = await page.desk.download("GET", "/export", asked)
    found.headers["Content-Disposition"] = 'attachment; filename="traces.csv"'
    return found


async def proof(page: Page) -> Response:
    found = await page.desk.read(_PATH + "/{id}/proof", ProofsOut, page.ids)
    return page.draw(
        "proof.html",
        title="Proof",
        lead="That the call's records are in the log, under a signed head.",
        found=found,
        up=(f"{_PATH}/{found.trace_id}", "The call"),
    )


async def erase(page: Page) -> Response:
    body = {"reason": page.form.get("reason", "").strip()}
    done = "Erased: what was kept is gone, the proof stays valid."
    await page.attempt("DELETE", _PATH + "/{id}/payload", body, done=done)
    return page.to(f"{_PATH}/{page.ids['id']}")


async def evidence(page: Page) -> Response:
    found = None
    try:
        found = await page.desk.read("/checkpoints/latest", CheckpointOut)
    except ApiError as fault:
        if fault.status != 404:
            raise
    return page.draw(
        "evidence.html",
        title="Evidence",
        lead="What an auditor can check without this gateway, by the command gateway verify.",
        checkpoint=found,
        anchors=await page.desk.read("/anchors", AnchorsOut, limit=20),
        form=forms.draw(_EVIDENCE, labels=_LABELS, choices=_choices(page)),
    )


async def show_anchor(page: Page) -> Response:
    found = await page.desk.read("/anchors/{id}", FullAnchor, page.ids)
    return page.draw("anchor.html", title="Anchor", found=found, up=("/evidence", "Evidence"))


async def bundle(page: Page) -> Response:
    body = forms.read(_EVIDENCE, page.form)
    return await page.desk.download("POST", "/evidence", body=body)


async def progress(page: Page) -> Response:
    """Asked by the page while a bundle is written."""
    found = page.context.api.making.of(page.desk.person.key.id)
    if found is None:
        return JSONResponse({"text": ""})
    read, of = found
    return JSONResponse({"text": f"{read:,} of {of:,} records…" if of else "Preparing…"})


def _choices(page: Page) -> dict[str, list[tuple[str, str]]]:
    found = choices_of(page)
    return {name: found[name] for name in ("agent_id", "server_id")}


async def show(page: Page) -> Response:
    found = await page.desk.read(_PATH + "/{id}", FullTrace, page.ids)
    names = names_of(page)
    decision = next((r for r in found.records if r.kind == "decision"), None)
    approval = await _approval(page, decision)
    standing, anchor = await anchor_of(page, found.trace_id)
    return page.draw(
        "trace.html",
        standing=standing,
        anchor=anchor,
        title=_title(decision or found.records[0]),
        trace=found,
        decision=decision,
        record=decision or found.records[0],
        approval=approval,
        steps=[*_story(found.records, approval, names), *_anchored(anchor)],
        why=why(decision, {**policies_of(page), **names}) if decision is not None else "",
        names=names,
        up=("/traces", "Traces"),
        explanation=None,
    )


async def again(page: Page) -> Response:
    """Make the decision anew from what was recorded, and say whether it is the same."""
    found = await page.desk.read(_PATH + "/{id}", FullTrace, page.ids)
    kept = await page.context.api.registry.read(
        lambda c: recorded.find(c, page.context.api.registry.keyring, found.trace_id)
    )
    if kept.question is None or kept.bundle_digest is None:
        page.say(f"It cannot be decided again: its input is {kept.input_state}.", "warning")
        return page.to(f"{_PATH}/{found.trace_id}")
    archive = await page.context.api.policy_bundle(kept.bundle_digest)
    if archive is None:
        page.say("It cannot be decided again: its bundle is not there any more.", "warning")
        return page.to(f"{_PATH}/{found.trace_id}")
    try:
        told = await asyncio.to_thread(explain, archive, kept.question, page.context.opa)
    except BundleFault as fault:
        page.say(f"The policy ends in an error, as it did then: {fault}", "warning")
        return page.to(f"{_PATH}/{found.trace_id}")
    return page.draw(
        "explanation.html",
        title="The decision, made again",
        kept=kept,
        told=told,
        same=_same(told, kept),
        up=(f"{_PATH}/{found.trace_id}", "The call"),
    )


def why(decision: RecordOut, names: Mapping[str, str]) -> str:
    """One sentence: what was decided, and for what reason."""
    record = decision.record
    tool = decision.tool or "the call"
    who = names.get(decision.agent_id or "", "a key without agent")
    said = "; ".join(_reasons(decision))
    rules = ", ".join(names.get(rule, rule) for rule in record.get("rules") or ())
    if decision.reason_code is None:
        how = {"LOG_ONLY": "allowed and kept in the log"}.get(str(decision.decision), "allowed")
        watched = "" if record.get("enforced", True) else " because the project only watches"
        by = f" by {rules}" if rules else " because no policy says otherwise"
        return f"{tool} was {how} for {who}{watched or by}{_because(said)}."
    reason = REASONS.get(decision.reason_code)
    general = reason.message.rstrip(".") if reason else decision.reason_code.replace("_", " ")
    by = f" ({rules})" if rules and not said else ""
    return f"{tool} was refused for {who}: {_lower(general)}{by}{_because(said)}."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _because(said: str) -> str:
    return f", because: {said.rstrip('.')}" if said else ""


def _reasons(decision: RecordOut) -> list[str]:
    payload = decision.payloads.get("why")
    if payload is not None and isinstance(payload.value, dict):
        return [str(reason) for reason in payload.value.get("reasons", ())]
    detail = decision.payloads.get("detail")
    return [str(detail.value)] if detail is not None and detail.value else []


def _same(told: Explanation, kept: recorded.Recorded) -> bool:
    return str(told.decision.get("action")) == kept.action


def _story(
    records: list[RecordOut], approval: OpenedApproval | None, names: Mapping[str, str]
) -> list[Step]:
    steps: list[Step] = []
    if approval is not None:
        steps.append(Step(approval.created_at, "Asked, and waited for a person", "orange"))
        if approval.decided_at is not None and approval.decided_by is not None:
            facts = (("by", approval.decided_by), ("reason", approval.decision_reason or ""))
            title = "Denied by a person" if approval.status == "DENIED" else "Approved by a person"
            tone = "red" if approval.status == "DENIED" else "green"
            steps.append(Step(approval.decided_at, title, tone, facts))
    for record in records:
        steps += _steps_of(record, names)
    return sorted(steps, key=lambda step: step.ts)


def _anchored(anchor: ChainReceipt | None) -> list[Step]:
    if anchor is None:
        return []
    facts = [("by", anchor.backend)]
    if anchor.block is not None:
        facts.append(("block", str(anchor.block)))
    return [Step(anchor.anchored_at, "Anchored", "green", tuple(facts))]


def _steps_of(record: RecordOut, names: Mapping[str, str]) -> list[Step]:
    body = record.record
    match record.kind:
        case "decision":
            who = names.get(record.agent_id or "", record.agent_id or "a key without agent")
            asked = Step(record.ts, "Asked", "blue", (("by", who), ("key", _text(body, "key"))))
            action = str(record.decision or "refused").replace("_", " ").lower()
            tone = "red" if record.reason_code else "green"
            decided = Step(record.ts, f"Decided: {action}", tone, _facts(body, _DECIDED))
            return [asked, decided]
        case "outcome":
            fate = str(body.get("fate", ""))
            title = {
                "answered": "Forwarded and answered",
                "not_forwarded": "Not forwarded",
                "unknown": "Forwarded; what became of it is not known",
            }.get(fate, "Ended")
            tone = "green" if body.get("status") == "ok" else "orange"
            return [Step(record.ts, title, tone, _facts(body, _ENDED))]
        case "approval":
            return []  # told by the approval itself
        case _:
            title = str(body.get("event", record.kind)).replace(".", ": ").replace("_", " ")
            return [Step(record.ts, title, "blue")]


_DECIDED = ("effect", "reason_code", "risk", "rules", "policy", "enforced", "holds", "over")
_ENDED = ("status", "dur_us", "result_size", "error_code", "truncated")


def _facts(body: Mapping[str, Any], names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found = []
    for name in names:
        if body.get(name) in (None, "", []) or (name, body[name]) == ("enforced", True):
            continue
        label = {"dur_us": "took", "policy": "bundle", "rules": "policies"}.get(name, name)
        found.append((label.replace("_", " "), _text(body, name)))
    return tuple(found)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "dur_us" and isinstance(value, int):
        return f"{value / 1000:.1f} ms"
    return "" if value is None else str(value)


def _title(record: RecordOut) -> str:
    if record.kind == "event":
        return str(record.record.get("event", "event"))
    return record.tool or record.kind


async def _approval(page: Page, decision: RecordOut | None) -> OpenedApproval | None:
    approval_id = decision.record.get("approval") if decision is not None else None
    if not isinstance(approval_id, str):
        return None
    try:
        return await page.desk.read("/approvals/{id}", OpenedApproval, {"id": approval_id})
    except ApiError:
        return None


def _wanted(page: Page) -> dict[str, str]:
    given = {name: page.query.get(name, "").strip() for name in FILTERS}
    return {name: text for name, text in given.items() if text}


async def _page(
    page: Page, wanted: Mapping[str, str], cursor: str | None, limit: int
) -> Listing[TraceOut]:
    asked = {name: value for name, value in wanted.items() if value != EVERYTHING}
    return await page.desk.read(_PATH, Listing[TraceOut], cursor=cursor, limit=limit, **asked)


async def _events(page: Page, items: list[TraceOut]) -> Mapping[str, str]:
    """What happened, by the ids of the events among the records."""
    times = [item.ts for item in items if item.kind == "event"]
    if not times:
        return {}
    project_id = page.person.project_id
    return await page.context.api.registry.read(
        lambda c: traces.events(c, project_id, min(times), max(times))
    )


PAGES = (
    PageRoute("GET", "/traces", index),
    PageRoute("GET", "/traces.csv", export),
    PageRoute("GET", "/evidence", evidence),
    PageRoute("POST", "/evidence", bundle),
    PageRoute("GET", "/evidence/progress", progress),
    PageRoute("GET", "/evidence/anchors/{id}", show_anchor),
    PageRoute("GET", "/traces/{id}", show),
    PageRoute("GET", "/traces/{id}/proof", proof),
    PageRoute("POST", "/traces/{id}/erase", erase),
    PageRoute("POST", "/traces/{id}/again", again),
)
