"""What platforms send about agents after the fact, as events of ours. Pure.

Each mapper takes the platform's own document and yields events in `record` mode; the document stays
whole in ``payload``, so that nothing a platform adds is lost. What it does not know is an event
under the platform's own name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jiter

from gateway.extensions.events import as_json
from gateway.values import Json

Document = Mapping[str, Json]
EventDocument = dict[str, Json]

_INTERACTIONS = {"userPrompt": "prompt_sent", "aiResponse": "response_sent"}
_TOOL_COLUMNS = ("tool_name", "tool.name", "tool", "name")
_INPUT_COLUMNS = ("tool_input", "inputs", "input", "arguments")
_FAILED = frozenset({"error", "failed", "failure", "cancelled", "terminated", "false"})


def graph(document: Json) -> Iterator[EventDocument]:
    """A change notification collection of Microsoft Graph, for `aiInteraction`.

    https://learn.microsoft.com/graph/api/resources/changenotificationcollection
    """
    for one in _objects(_member(document, "value")):
        kept = {name: value for name, value in one.items() if name != "clientState"}
        data = _object(one.get("resourceData"))
        if lifecycle := one.get("lifecycleEvent"):
            yield _event("copilot", f"graph.lifecycle.{lifecycle}", _hash(kept), kept)
            continue
        change = one.get("changeType", "unknown")
        named = _INTERACTIONS.get(str(data.get("interactionType")), f"graph.aiInteraction.{change}")
        event_id = f"{one.get('subscriptionId')}/{data.get('id') or _hash(kept)}/{change}"
        yield _event(
            "copilot",
            named,
            event_id,
            kept,
            session_id=data.get("sessionId"),
            occurred_at=_time(data.get("createdDateTime")),
            user=_user(_object(_object(data.get("from")).get("user")).get("id")),
        )


def purview(document: Json) -> Iterator[EventDocument]:
    """Records of the unified audit log (RecordType 261, `CopilotInteraction`, and others).

    https://learn.microsoft.com/office/office-365-management-api/copilot-schema
    """
    for one in _objects(document):
        data = _object(one.get("AuditData")) or one
        copilot = _object(data.get("CopilotEventData"))
        yield _event(
            "copilot",
            f"purview.{data.get('Operation', 'unknown')}",
            str(data.get("Id") or _hash(one)),
            one,
            session_id=copilot.get("ThreadId"),
            occurred_at=_time(data.get("CreationTime")),
            user=_user(data.get("UserId")),
        )


def salesforce(document: Json) -> Iterator[EventDocument]:
    """Platform events as the streaming API wraps them, and rows of event log files."""
    for one in _objects(document):
        if "data" in one and "channel" in one:
            yield _platform_event(one)
        elif "ACTION_NAME" in one:
            yield _invocable_action(one)
        else:
            kind = one.get("EVENT_TYPE") or _object(one.get("attributes")).get("type")
            event_id = one.get("EventIdentifier") or one.get("EventUuid") or _hash(one)
            named = f"salesforce.{kind or 'event'}"
            at = _time(one.get("EventDate") or one.get("TIMESTAMP_DERIVED"))
            yield _event("salesforce", named, str(event_id), one, occurred_at=at)


def servicenow(document: Json) -> Iterator[EventDocument]:
    """Rows of `sn_aia_tools_execution` as the business rule of `docs/connectors` sends them.

    ServiceNow documents the table and not its columns, so several names are looked for.
    """
    for one in _objects(document):
        row = _object(one.get("record")) or one
        table = str(one.get("table") or "event")
        tool = next((row[name] for name in _TOOL_COLUMNS if _is_text(row.get(name))), None)
        version = row.get("sys_mod_count") or row.get("sys_updated_on") or "0"
        sys_id = row.get("sys_id") or one.get("sys_id") or _hash(one)
        event_id = f"{table}/{sys_id}/{version}"
        about = {
            "occurred_at": _time(row.get("sys_updated_on") or row.get("sys_created_on")),
            "external_agent_id": _text(row.get("agent")),
            "session_id": _text(row.get("execution_plan") or row.get("plan_id")),
            "user": _user(row.get("user") or row.get("sys_created_by")),
        }
        if tool is None:
            yield _event("servicenow", f"servicenow.{table}", event_id, one, **about)
            continue
        inputs = next((row[name] for name in _INPUT_COLUMNS if name in row), None)
        state = str(row.get("status") or row.get("state") or "")
        called = {"name": tool, "arguments": _arguments(inputs)}
        yield _done("servicenow", event_id, one, called, state, **about)


def _platform_event(one: Document) -> EventDocument:
    payload, channel = _object(_member(one, "data", "payload")), str(one["channel"])
    replay = _object(_member(one, "data", "event")).get("replayId")
    event_id = f"{channel}/{replay if replay is not None else _hash(one)}"
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
    """A row of the InvocableAction event log file."""
    at = row.get("TIMESTAMP_DERIVED")
    event_id = f"{row.get('REQUEST_ID')}/{row['ACTION_NAME']}/{at or _hash(row)}"
    called = {"name": row["ACTION_NAME"], "arguments": {}}
    status = "failed" if str(row.get("STATUS", "")).lower() in _FAILED else "ok"
    return _done(
        "salesforce",
        event_id,
        row,
        called,
        status,
        occurred_at=_time(at),
        external_agent_id=_text(row.get("BOT_IDENTIFIER") or row.get("PLANNER_IDENTIFIER")),
        session_id=_text(row.get("BOT_SESSION_IDENTIFIER")),
        user=_user(row.get("USER_ID_DERIVED") or row.get("USER_ID")),
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


def _is_text(value: Json) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 512


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 512 else None


def _user(value: Json) -> dict[str, str] | None:
    text = _text(value)
    return None if text is None else {"id": text}


def _time(value: Json) -> str | None:
    """RFC 3339, if it is one once Salesforce's and Microsoft's ways are put right."""
    if not isinstance(value, str) or len(value) < 19:
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
    try:
        found = jiter.from_json(
            value.encode(), catch_duplicate_keys=True, float_mode="lossless-float"
        )
    except ValueError:
        return {"text": value}
    return found if isinstance(found, dict) else {"value": found}


def _hash(document: Document) -> str:
    return hashlib.sha256(as_json(document)).hexdigest()
