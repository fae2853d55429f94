"""An event that has been read: as a call for Verify, and as what the trace keeps of it."""

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Literal

from gateway.dry_run import Looked
from gateway.event import Event
from gateway.extensions.events import EventIn, as_json
from gateway.extensions.senders import Sender
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.records.calls import refusal_draft, said_of
from gateway.refusals import Refused
from gateway.trace.record import Draft, bounded
from gateway.values import Call, Caller, CallId, Era, Json, Request, Risk


@frozen
class Asked:
    """An event that has been read, and on whose behalf it speaks."""

    sender: Sender
    event: EventIn
    document: Mapping[str, Json]
    """The event as it was sent, its numbers lossless."""
    event_id: str
    caller: Caller
    source: Literal["extension", "sdk", "authzen"] = "extension"
    gone: Callable[[], bool] = field(default=lambda: False)
    """True once nobody waits for the answer."""
    kept: bytes | None = None
    """What the trace keeps in place of the document."""


def call_of(asked: Asked, trace_id: str, name: str, risk: Risk) -> Call:
    event, tool = asked.event, asked.event.tool
    arguments = tool.arguments if tool is not None else {}
    user = {} if event.user is None else {"user": event.user.id}
    said = {"platform": event.platform, "external_agent_id": event.external_agent_id}
    params: dict[str, Json] = {"name": name, "arguments": arguments}
    if user:
        params["_meta"] = user  # an approval is for this person's call
    return Call(
        id=CallId(trace_id),
        caller=asked.caller,
        request=Request("POST", asked.caller.server.id, (), b"", client_ip="", gone=asked.gone),
        source=asked.source,
        era=Era.MODERN,
        rpc_id=0,
        tool_name=name,
        arguments=arguments,
        meta={**user, **{key: value for key, value in said.items() if value is not None}},
        task=None,
        input_responses=None,
        is_retry=False,
        params=params,
        session=event.session_id,
        event=event_of(asked, risk),
    )


def event_of(asked: Asked, risk: Risk) -> Event:
    event = asked.event
    named = {
        "platform": event.platform,
        "external_agent": event.external_agent_id,
        "tool_id": event.tool.id if event.tool is not None else None,
        "occurred_at": event.occurred_at,
    }
    keeps = asked.caller.project.record_inputs == "all"
    return Event(
        sender=asked.sender.key.id,
        id=asked.event_id,
        type=event.event_type,
        risk=risk.value,
        codes={name: text for name, text in named.items() if text is not None},
        body=(asked.kept or as_json(asked.document)) if keeps else b"",
    )


def would_draft(call: Call, looked: Looked | None, reason: str, *, urgent: bool) -> Draft:
    """The decision that a reported call would have got, marked as one that bound nobody."""
    refused = Refused(reason or "internal")
    draft = refusal_draft(call, refused, looked.decision if looked is not None else None)
    fields = {**draft.fields, "enforceable": False, "effect": "record"}
    del fields["reason_code"]
    fields.pop("anchor", None)
    if reason:
        fields |= {"reason_code": reason, "would": "WOULD_BLOCK"}
    if urgent:
        fields["anchor"] = "urgent"
    return replace(draft, fields=fields)


def outcome_draft(asked: Asked, trace_id: str) -> Draft:
    """What the sender says became of the call; nobody but the sender attests it."""
    event = asked.event
    failed = event.event_type.endswith(".failed")
    said = event.outcome.status if event.outcome is not None else ""
    return _reported(
        asked,
        "outcome",
        trace_id,
        {"fate": "reported", "status": "tool_error" if failed else "ok", "said": bounded(said)},
    )


def note_draft(asked: Asked, trace_id: str) -> Draft:
    return _reported(asked, "report", trace_id, {"enforceable": False})


def _reported(
    asked: Asked, kind: str, trace_id: str, more: Mapping[str, str | bool | None]
) -> Draft:
    caller = asked.caller
    event = event_of(asked, Risk.LOW)
    body = event.body or as_json(asked.document)
    return Draft(
        kind=kind,
        id=new_id("trc") if kind == "outcome" else trace_id,
        project_id=caller.project.id,
        fields={
            "server": caller.server.id,
            "agent": caller.agent.id if caller.agent else None,
            "tool": bounded(asked.event.tool.name) if asked.event.tool is not None else None,
            "key": caller.key.id,
            "source": asked.source,
            **said_of(event),
            **more,
        },
        payloads={"event": body} if event.body else {},
        commits={} if event.body else {"event": body},
        call_id=trace_id,
        retention_days=caller.project.retention_days,
    )
