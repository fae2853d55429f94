"""`/traces`: what was decided and done, and what was changed by whom."""

from dataclasses import replace
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field
from sqlalchemy import Connection, Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import traces
from gateway.registry.faults import Forbidden
from gateway.registry.fields import Id, Term, Time
from gateway.registry.search import sought
from gateway.values import Risk, Role

_PolicyId = Annotated[Term, Field(description="The id of a policy that was named")]


class Wanted(BaseModel):
    """Which records; what is not given leaves a side open."""

    time_range: Literal["1h", "24h", "7d", "30d", "all"] | None = None
    from_: Time | None = Field(default=None, alias="from")
    to: Time | None = None
    decision: (
        Literal["PASSED", "BLOCKED", "ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"] | None
    ) = None
    agent_id: Id | None = None
    server_id: Id | None = None
    tool: Term | None = None
    risk: Risk | None = None
    kind: Id | None = None
    policy_id: _PolicyId | None = None

    def as_filter(self) -> traces.Filter:
        return traces.Filter(
            time_range=self.time_range,
            start=self.from_,
            end=self.to,
            decision=self.decision,
            agent_id=self.agent_id,
            server_id=self.server_id,
            tool=self.tool,
            risk=self.risk,
            kind=self.kind,
            policy_id=self.policy_id,
        )


class Searched(Wanted):
    q: Annotated[
        Annotated[Term, Field(max_length=200)] | None,
        Field(description="Part of the name of a tool, agent or server, of a reason or a policy"),
    ] = None

    def as_searched(self, call: ApiCall) -> traces.Filter:
        """With what `q` means in the caller's project."""
        if self.q is None:
            return self.as_filter()
        registry = call.context.registry
        view = registry.directory.view(call.project_id)
        return replace(
            self.as_filter(), search=sought(view, registry.templates.templates(), self.q)
        )


class TracesQuery(Searched, ListQuery):
    pass


class TraceOut(Output):
    """One record's index columns; `trace_id` is the call's, or the record's own."""

    id: str
    trace_id: str
    idx: int
    ts: str
    kind: str
    decision: str | None
    reason_code: str | None
    risk: str | None
    agent_id: str | None
    server_id: str | None
    tool: str | None


class PayloadOut(Output):
    encoding: str
    value: Any


class RecordOut(TraceOut):
    record: dict[str, Any]
    """The record as it was hashed."""
    leaf: str
    """Its leaf hash in the log, hex (RFC 6962, section 2.1)."""
    payloads: dict[str, PayloadOut]
    """What the record commits to, as far as it is still there."""


class FullTrace(Output):
    """A call's records in their order: an approval asked for, the decision, the outcome."""

    trace_id: str
    records: list[RecordOut]


async def list_traces(call: ApiCall, query: TracesQuery) -> Listing[TraceOut]:
    wanted = replace(query.as_searched(call), sender=_sender(call))
    page = await call.read(
        lambda c: traces.listed(c, call.project_id, wanted, call.now, query.cursor, query.limit)
    )
    return listing(page, _shown)


async def get(call: ApiCall) -> FullTrace:
    """One call with its payloads opened, or one record by its own id."""

    sender = _sender(call)

    def read(connection: Connection) -> FullTrace:
        rows = traces.get(connection, call.project_id, call.path["id"], sender)
        records = [_opened(call, connection, row) for row in rows]
        return FullTrace(trace_id=call.path["id"], records=records)

    return await call.read(read)


def _sender(call: ApiCall) -> str | None:
    """An extension reads what became of its own events, if it may at all."""
    if call.key.role is not Role.EXTENSION:
        return None
    view = call.context.registry.directory.view(call.project_id)
    if "traces:read" not in view.extensions[call.key.id].scopes:
        raise Forbidden("This extension has not the scope traces:read.")
    return call.key.id


def _shown(row: Row[Any]) -> TraceOut:
    names = (name for name in TraceOut.model_fields if name != "trace_id")
    columns = {name: getattr(row, name) for name in names}
    return TraceOut(trace_id=row.call_id or row.id, **columns)


def _opened(call: ApiCall, connection: Connection, row: Row[Any]) -> RecordOut:
    opened = traces.open_payloads(connection, call.context.registry.keyring, row)
    return RecordOut(
        **_shown(row).model_dump(),
        record=orjson.loads(row.body),
        leaf=row.leaf.hex(),
        payloads={
            name: PayloadOut(encoding=payload.encoding, value=payload.value)
            for name, payload in opened.items()
        },
    )
