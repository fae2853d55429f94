"""`/mcp/emergency-stop`: raised by approvers and administrators, lifted by the latter."""

from typing import Any

from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import stops
from gateway.registry.core import Change
from gateway.registry.stops import Lift, NewStop
from gateway.values import Stop, StopId


class StopOut(Output):
    id: str
    scope: str
    target_id: str | None
    reason: str
    raised_by: str
    stopped_at: str
    lifted_at: str | None
    lifted_by: str | None
    lift_reason: str | None


class RaisedOut(Output):
    id: str
    stopped_at: str
    cancelled_calls: int
    denied_approvals: int
    refused_keys: int


async def raise_stop(call: ApiCall, body: NewStop) -> RaisedOut:
    """In force when this answers; running calls are cut after that, so none can begin between."""

    def change_it(change: Change) -> RaisedOut:
        raised = stops.raise_stop(change, body)
        return RaisedOut(
            id=raised.row.id,
            stopped_at=raised.row.stopped_at,
            cancelled_calls=0,
            denied_approvals=raised.denied_approvals,
            refused_keys=raised.refused_keys,
        )

    raised = await call.change(change_it)
    stop = Stop(StopId(raised.id), call.project_id, body.scope, body.target_id, body.reason)
    return raised.model_copy(update={"cancelled_calls": call.context.cancel_calls(stop)})


async def list_stops(call: ApiCall, query: ListQuery) -> Listing[StopOut]:
    page = await call.read(lambda c: stops.listed(c, call.project_id, query.cursor, query.limit))
    return listing(page, _shown)


async def lift(call: ApiCall, body: Lift) -> StopOut:
    return await call.change(
        lambda change: _shown(stops.lift(change, call.path["id"], body.reason))
    )


def _shown(row: Row[Any]) -> StopOut:
    return StopOut.model_validate(row)
