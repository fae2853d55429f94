"""The event of ``POST /webhooks/ingest``: what is read of it; whatever else it holds is kept."""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, RootModel

from gateway.policy.risk import as_sent
from gateway.registry.fields import Term, Time
from gateway.values import Json

REQUESTED = "tool_call.requested"
DONE = frozenset({"tool_call.completed", "tool_call.failed"})

_EventId = Annotated[Term, Field(max_length=256)]


class _Open(BaseModel):
    """Exact types; unknown members are no fault, and stay in the event as it was sent."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, defer_build=True)


class ToolIn(_Open):
    name: Term
    id: Annotated[Term | None, Field(description="Asked about as well as the name")] = None
    description: Annotated[str, Field(max_length=65_536)] = ""
    arguments: dict[str, Any] = {}


class UserIn(_Open):
    id: Term


class OutcomeIn(_Open):
    status: Annotated[str, Field(max_length=512)] = ""
    error: Annotated[str, Field(max_length=65_536)] | None = None


class EventIn(_Open):
    event_id: _EventId | None = None
    """Unique for the sender: the same event sent again is answered as before."""
    event_type: Term
    mode: Literal["decide", "record"] = "record"
    occurred_at: Time | None = None
    platform: Term | None = None
    source_url: Annotated[str, Field(max_length=4096)] | None = None
    agent_id: Term | None = None
    external_agent_id: Annotated[Term | None, Field(description="The platform's own")] = None
    user: UserIn | None = None
    session_id: Term | None = None
    tool: ToolIn | None = None
    outcome: OutcomeIn | None = None
    server_id: Annotated[
        Term | None, Field(description="For project keys; an extension has one server")
    ] = None
    trace_id: Annotated[Term | None, Field(description="The decision whose outcome this is")] = None
    request_event_id: Annotated[
        _EventId | None, Field(description="The event that announced the call, for its outcome")
    ] = None
    payload: dict[str, Any] = {}

    @property
    def is_outcome(self) -> bool:
        return self.event_type in DONE

    @property
    def joins(self) -> bool:
        """Whether it names the call whose outcome it is."""
        return self.is_outcome and (self.trace_id or self.request_event_id) is not None


MOST_EVENTS = 100


class EventsIn(
    RootModel[
        EventIn | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_EVENTS)]
    ]
):
    """An event, or an array of them, each of which is answered for itself."""


class IngestAnswer(BaseModel):
    """What is said to an event."""

    event_id: str
    trace_id: str
    decision: Literal["PASSED", "FLAGGED", "PENDING_APPROVAL", "BLOCKED", "RECORDED"]
    enforceable: bool
    reason: str
    reason_code: str
    policy_id: str | None
    risk_level: str | None
    approval_id: str | None
    expires_at: str | None
    failed_open: bool


class ItemAnswer(BaseModel):
    """What is said to one of an array's events: its `IngestAnswer`, or why there is none."""

    model_config = ConfigDict(extra="allow")

    event_id: str | None
    status: int
    error: dict[str, Any] | None = None


class IngestAnswers(RootModel[IngestAnswer | list[ItemAnswer]]):
    """An array is answered by an array."""


def as_json(document: Mapping[str, Json]) -> bytes:
    """The event in one spelling, its numbers as they were sent."""
    return orjson.dumps(document, default=as_sent, option=orjson.OPT_SORT_KEYS)


def digest(document: Mapping[str, Json]) -> str:
    return hashlib.sha256(as_json(document)).hexdigest()
