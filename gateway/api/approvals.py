"""`/approvals`: what waits for a person, their word on it, and how the asking agent learns it."""

import time
from typing import Annotated, Any

import orjson
from pydantic import Field
from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, Query, listing
from gateway.clock import parse
from gateway.registry import approvals
from gateway.registry.approvals import Ruling, Status, Verb
from gateway.registry.fields import Id

MAX_WAIT = 30
"""Seconds that one status request may wait for the decision."""
LOOK_SECONDS = 2.0


class ApprovalOut(Output):
    id: str
    status: Status
    """What it is worth now: expiry is derived when it is read."""
    key_id: str
    agent_id: str | None
    server_id: str
    tool_name: str
    definition_sha256: str
    risk: str
    policy_ids: list[str]
    reason: str
    trace_id: str
    created_at: str
    expires_at: str
    decided_by: str | None
    decided_at: str | None
    decision_reason: str | None
    approvers: list[str] | None
    """Who alone may approve, where a policy names them."""
    quorum: int
    """How many people must approve."""
    reason_required: bool
    approved_by: list[str]
    """Who has so far."""


class OpenedApproval(ApprovalOut):
    call: Any
    """`params` of the call, exactly as they were sent and will be."""


class ApprovalStatus(Output):
    """For the agent that asked."""

    approval_id: str
    trace_id: str
    effective_status: Status
    decided_by: str | None
    decided_at: str | None
    expires_at: str


class ApprovalsQuery(ListQuery):
    status: Status | None = None


class StatusQuery(Query):
    trace_id: Id | None = None
    approval_id: Id | None = None
    wait: Annotated[int, Field(ge=0, le=MAX_WAIT)] = 0


async def list_approvals(call: ApiCall, query: ApprovalsQuery) -> Listing[ApprovalOut]:
    now = call.now
    page = await call.read(
        lambda c: approvals.listed(c, call.project_id, query.status, now, query.cursor, query.limit)
    )
    return listing(page, lambda row: _shown(call, row, now)[0])


async def get(call: ApiCall) -> OpenedApproval:
    row = await call.read(lambda c: approvals.get(c, call.project_id, call.path["id"]))
    shown, params = _shown(call, row, call.now)
    return OpenedApproval(**shown.model_dump(), call=orjson.loads(params))


async def approve(call: ApiCall, body: Ruling) -> ApprovalOut:
    return await _decide(call, "approve", body)


async def deny(call: ApiCall, body: Ruling) -> ApprovalOut:
    return await _decide(call, "deny", body)


async def status(call: ApiCall, query: StatusQuery) -> ApprovalStatus:
    """The decision on what this key asked; with `wait`, as soon as there is one."""
    registry = call.context.registry
    ends = time.monotonic() + query.wait
    while True:
        seen = registry.changes
        row = await call.read(
            lambda c: approvals.asked_by(c, call.key, query.approval_id, query.trace_id)
        )
        now = call.now
        worth = approvals.effective_status(row, now)
        left = min(ends - time.monotonic(), (parse(row.expires_at) - parse(now)).total_seconds())
        if worth != "PENDING" or left <= 0:
            break
        # Another gateway's decision is not heard of here, only read.
        await registry.changed(seen, min(left, LOOK_SECONDS))
    return ApprovalStatus(
        approval_id=row.id,
        trace_id=row.trace_id,
        effective_status=worth,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        expires_at=row.expires_at,
    )


async def _decide(call: ApiCall, verb: Verb, body: Ruling) -> ApprovalOut:
    return await call.change(
        lambda change: _shown(
            call, approvals.decide(change, call.path["id"], verb, body.reason), change.now
        )[0]
    )


def _shown(call: ApiCall, row: Row[Any], now: str) -> tuple[ApprovalOut, bytes]:
    """The approval, and the call's `params` as JSON."""
    opened = approvals.opened(call.context.registry.keyring, row)
    derived = {"status", "approved_by", "reason"}
    columns = {n: getattr(row, n) for n in ApprovalOut.model_fields if n not in derived}
    people = [vote["person"] for vote in row.votes]
    status = approvals.effective_status(row, now)
    shown = ApprovalOut(status=status, approved_by=people, reason=opened.reason, **columns)
    return shown, opened.params
