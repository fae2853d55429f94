"""`/proposals`: changes that loosen, made when a second person confirms them."""

from typing import Any

from pydantic import JsonValue
from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import proposals
from gateway.registry.proposals import Word


class ProposalOut(Output):
    id: str
    kind: str
    subject: str | None
    """The id of what it changes; null for what is new."""
    body: dict[str, JsonValue]
    """What was asked for."""
    before: dict[str, JsonValue] | None
    """What it changes, as it was then; confirmed only while it still is so."""
    state: str
    """OPEN, CONFIRMED, REJECTED or EXPIRED."""
    proposed_by: str
    created_at: str
    expires_at: str
    decided_by: str | None
    decided_at: str | None
    decision_reason: str | None


async def list_proposals(call: ApiCall, query: ListQuery) -> Listing[ProposalOut]:
    page = await call.read(
        lambda c: proposals.listed(c, call.project_id, query.cursor, query.limit)
    )
    return listing(page, lambda row: _shown(row, call.now))


async def confirm(call: ApiCall, body: Word) -> ProposalOut:
    return await call.change(
        lambda change: _shown(proposals.confirm(change, call.path["id"], body), change.now)
    )


async def reject(call: ApiCall, body: Word) -> ProposalOut:
    return await call.change(
        lambda change: _shown(proposals.reject(change, call.path["id"], body), change.now)
    )


def _shown(row: Row[Any], now: str) -> ProposalOut:
    shown = ProposalOut.model_validate(row)
    return shown.model_copy(update={"state": proposals.state_of(row, now)})
