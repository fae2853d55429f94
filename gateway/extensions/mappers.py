"""What platforms send about agents after the fact, as events of ours. Pure.

Each mapper takes the platform's own document and yields events in `record` mode; the document stays
whole in ``payload``, so that nothing a platform adds is lost. What it does not know is an event
under the platform's own name.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jiter

from gateway.extensions.events import as_json
from gateway.values import Json

Document = Mapping[str, Json]
EventDocument = dict[str, Json]

_INTERACTIONS = {"userPrompt": "prompt_sent", "aiResponse": "response_sent"}
_TOOL = ("tool.tool.name", "tool.name", "tool_name", "tool", "name")
_INPUT = ("request", "tool_input", "inputs", "input", "arguments")
_STATUS = ("execution_status", "status", "state")
_AGENT = ("tool.agent.name", "agent.name", "agent")
_PLAN = ("execution_plan_id", "execution_plan", "plan_id")
_PERSON = ("run_as_user", "user", "sys_created_by")
_CHANGED = ("sys_updated_on", "sys_created_on")
_RUNNING = frozenset({"processing", "queued", "ready", "ongoing"})
_FAILED = frozenset({"error", "failed", "failure", "cancelled", "terminated", "timeout", "false"})
_LOG_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d+)?", re.ASCII)


def graph(document: Json) -> Iterator[EventDocument]:
    """A change notification collection of Microsoft Graph, for `aiInteraction`, or such resources.

    With `includeResourceData` a notification holds them encrypted, and stays as it is; whoever
    decrypts or fetches them may send them, alone or as the list that Graph gives.
    https://learn.microsoft.com/graph/api/resources/changenotificationcollection
    https://learn.microsoft.com/graph/aiinteraction-changenotifications
    """
    for one in _objects(_member(document, "value") if _has(document, "value") else document):
        if "interactionType" in one:
            event_id = f"aiInteraction/{one.get('id') or _hash(one)}/{one.get('etag')}"
            yield _interaction(one, one, event_id, "fetched")
            continue
        kept = {name: value for name, value in one.items() if name != "clientState"}
        if lifecycle := one.get("lifecycleEvent"):
            yield _event("copilot", f"graph.lifecycle.{lifecycle}", _hash(kept), kept)
            continue
        data, change = _object(one.get("resourceData")), str(one.get("changeType", "unknown"))
        event_id = f"{one.get('subscriptionId')}/{data.get('id') or _hash(kept)}/{change}"
        yield _interaction(data, kept, event_id, change)


def purview(document: Json) -> Iterator[EventDocument]:
    """Records of the unified audit log (RecordType 261, `CopilotInteraction`, and others).

    As the Management Activity API lists them, as a search exports them (a text in `AuditData`), or
    as Graph gives them (`auditData`); and that API's notifications that there are some to fetch.
    https://learn.microsoft.com/office/office-365-management-api/copilot-schema
    https://learn.microsoft.com/graph/api/resources/security-auditlogrecord
    """
    for one in _objects(document):
        if "contentUri" in one:
            event_id = str(one.get("contentId") or _hash(one))
            at = _time(one.get("contentCreated"))
            yield _event("copilot", "purview.content_available", event_id, one, occurred_at=at)
            continue
        data = _audited(one.get("AuditData") or one.get("auditData")) or one
        operation = data.get("Operation") or one.get("operation") or "unknown"
        yield _event(
            "copilot",
            f"purview.{operation}",
            str(data.get("Id") or one.get("id") or _hash(one)),
            one,
            session_id=_text(_object(data.get("CopilotEventData")).get("ThreadId")),
            occurred_at=_time(data.get("CreationTime") or one.get("createdDateTime")),
            user=_user(data.get("UserId") or one.get("userPrincipalName")),
        )


def salesforce(document: Json) -> Iterator[EventDocument]:
    """Platform events as the streaming API wraps them, and rows of event log files and objects.

    https://developer.salesforce.com/docs/atlas.en-us.platform_events.meta/platform_events/platform_events_subscribe_cometd.htm
    https://developer.salesforce.com/docs/atlas.en-us.object_reference.meta/object_reference/sforce_api_objects_eventlogfile_invocableaction.htm
    """
    for one in _objects(document):
        if "data" in one and "channel" in one:
            yield _platform_event(one)
        elif "ACTION_NAME" in one or "ActionName" in one:
            yield _invocable_action(one)
        else:
            kind = one.get("EVENT_TYPE") or _object(one.get("attributes")).get("type")
            event_id = one.get("EventIdentifier") or one.get("EventUuid") or _hash(one)
            named = f"salesforce.{kind or 'event'}"
            at = _time(_first(one, "EventDate", "TIMESTAMP_DERIVED", "TIMESTAMP"))
            yield _event("salesforce", named, str(event_id), one, occurred_at=at)


def servicenow(document: Json) -> Iterator[EventDocument]:
    """Rows of `sn_aia_tools_execution` as the business rule of `docs/connectors` sends them.

    ServiceNow documents the table and not its columns. Those of a Zurich instance come first:
    `tool` refers to the agent's tool, whose name is `tool.name`; `request` and `execution_status`.
    """
    for one in _objects(document):
        row = _cells(_object(one.get("record")) or one)
        table = str(one.get("table") or "event")
        tool, state = _first(row, *_TOOL), str(_first(row, *_STATUS) or "")
        version = _first(row, "sys_mod_count", *_CHANGED) or "0"
        sys_id = row.get("sys_id") or one.get("sys_id") or _hash(one)
        event_id = f"{table}/{sys_id}/{version}"
        about = {
            "occurred_at": _time(_first(row, *_CHANGED)),
            "external_agent_id": _text(_first(row, *_AGENT)),
            "session_id": _text(_first(row, *_PLAN)),
            "user": _user(_first(row, *_PERSON)),
        }
        if not _is_text(tool) or state.lower() in _RUNNING:
            # Of a call that is not over there will be another row, and it is to count once.
            yield _event("servicenow", f"servicenow.{table}", event_id, one, **about)
            continue
        if str(row.get("is_error")).lower() in ("true", "1"):
            state = state if state.lower() in _FAILED else "error"
        called = {"name": tool, "arguments": _arguments(_first(row, *_INPUT))}
        yield _done("servicenow", event_id, one, called, state, **about)


def _interaction(data: Document, whole: Document, event_id: str, change: str) -> EventDocument:
    kind = str(data.get("interactionType"))
    return _event(
        "copilot",
        _INTERACTIONS.get(kind, f"graph.aiInteraction.{change}"),
        event_id,
        whole,
        session_id=_text(data.get("sessionId")),
        occurred_at=_time(data.get("createdDateTime")),
        user=_user(_object(_object(data.get("from")).get("user")).get("id")),
    )


def _platform_event(one: Document) -> EventDocument:
    payload, channel = _object(_member(one, "data", "payload")), str(one["channel"])
    event = _object(_member(one, "data", "event"))
    unique = event.get("EventUuid") or event.get("replayId")
    event_id = f"{channel}/{unique if unique is not None else _hash(one)}"
    about = {
        "occurred_at": _time(payload.get("CreatedDate")),
        "external_agent_id": _text(payload.get("Agent__c")),
        "session_id": _text(payload.get("Session__c")),
        "user": _user(payload.get("User__c") or payload.get("CreatedById")),
    }
    tool = payload.get("Tool_Name__c")
    if not _is_text(tool):
        name = channel.rpartition("/")[2]
        return _event("salesforce", f"salesforce.{name}", event_id, one, **about)
    called = {"name": tool, "arguments": _arguments(payload.get("Arguments__c"))}
    status = str(payload.get("Status__c") or "")
    return _done("salesforce", event_id, one, called, status, **about)


def _invocable_action(row: Document) -> EventDocument:
    """A row of the InvocableAction event log file, or an InvocableActionEventLog.

    Neither says with what the action was called, nor whether it succeeded.
    """
    at = _time(_first(row, "TIMESTAMP_DERIVED", "Timestamp", "TIMESTAMP"))
    name = _first(row, "ACTION_NAME", "ActionName")
    request = _first(row, "REQUEST_ID", "RequestIdentifier")
    called = {"name": name, "arguments": {}}
    if _is_text(row.get("AGENT_ACTION")):
        called["id"] = row["AGENT_ACTION"]
    return _done(
        "salesforce",
        f"{request}/{name}/{at or _hash(row)}",
        row,
        called,
        "",
        occurred_at=at,
        external_agent_id=_text(
            _first(row, "BOT_IDENTIFIER", "BotIdentifier", "PLANNER_IDENTIFIER")
        ),
        session_id=_text(_first(row, "BOT_SESSION_IDENTIFIER", "BotSessionIdentifier")),
        user=_user(_first(row, "USER_ID_DERIVED", "USER_ID", "UserIdentifier")),
    )


def _done(
    platform: str,
    event_id: str,
    whole: Document,
    tool: Document,
    status: str,
    **about: Any,
) -> EventDocument:
    failed = status.lower() in _FAILED
    event = "tool_call.failed" if failed else "tool_call.completed"
    outcome = {"status": status[:512]}
    return _event(platform, event, event_id, whole, tool=tool, outcome=outcome, **about)


def _event(
    platform: str, event_type: str, event_id: str, whole: Document, **about: Any
) -> EventDocument:
    event = {
        "event_id": event_id if len(event_id) <= 256 else _hash({"id": event_id}),
        "event_type": event_type[:512],
        "mode": "record",
        "platform": platform,
        **about,
        "payload": dict(whole),
    }
    return {name: value for name, value in event.items() if value is not None}


def _member(document: Json, *names: str) -> Json:
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document


def _objects(document: Json) -> list[Document]:
    """One object or many. What else is in an array becomes an event of its own, unread."""
    many = document if isinstance(document, list) else [document]
    return [one if isinstance(one, dict) else {"unread": one} for one in many if one is not None]


def _object(value: Json) -> Document:
    return value if isinstance(value, dict) else {}


def _has(document: Json, name: str) -> bool:
    return isinstance(document, dict) and name in document


def _first(row: Document, *names: str) -> Json:
    """Of several columns the first that says something."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _cells(row: Document) -> Document:
    """ServiceNow's table API gives a cell as its value, or with what it is shown as."""
    return {
        name: (cell.get("display_value") or cell.get("value")) if _is_cell(cell) else cell
        for name, cell in row.items()
    }


def _is_cell(cell: Json) -> bool:
    return isinstance(cell, dict) and cell.keys() <= {"value", "display_value", "link"}


def _audited(value: Json) -> Document:
    """The audit data, which exports keep as a text that holds JSON."""
    return _object(_parsed(value) if isinstance(value, str) else value)


def _is_text(value: Json) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 512


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 512 else None


def _user(value: Json) -> dict[str, str] | None:
    text = _text(value)
    return None if text is None else {"id": text}


def _time(value: Json) -> str | None:
    """RFC 3339, if it is one once Salesforce's and Microsoft's ways are put right."""
    if not isinstance(value, str):
        return None
    if logged := _LOG_TIME.fullmatch(value):
        year, month, day, hour, minute, second, rest = logged.groups("")
        value = f"{year}-{month}-{day}T{hour}:{minute}:{second}{rest}"
    if len(value) < 19:
        return None
    text = value.replace(" ", "T", 1).replace("+0000", "Z")
    if text[-1] not in "Zz" and "+" not in text[19:] and "-" not in text[19:]:
        text += "Z"
    return text if text[4] == text[7] == "-" and text[10] in "Tt" else None


def _arguments(value: Json) -> dict[str, Json]:
    """Arguments, which platforms often keep as a text that holds JSON."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str) or not value:
        return {}
    found = _parsed(value)
    if found is None:
        return {"text": value}
    return found if isinstance(found, dict) else {"value": found}


def _parsed(text: str) -> Json:
    """The JSON in a text; None if it holds none."""
    try:
        return jiter.from_json(
            text.encode(), catch_duplicate_keys=True, float_mode="lossless-float"
        )
    except ValueError:
        return None


def _hash(document: Document) -> str:
    return hashlib.sha256(as_json(document)).hexdigest()
