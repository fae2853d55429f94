"""Tools: what a server offers, pinned to what an administrator accepted.

A definition that differs from the accepted one is never accepted by itself: not by a scan, not by
going back to what it was, not by vanishing and coming back. Only `accept` of exactly what was
shown, or the first approval of the server after a complete scan, makes a tool callable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, Row, insert, select, update

from gateway.ids import new_id
from gateway.mcp.digests import canonical_definition, definition_digests
from gateway.mcp.folding import fold
from gateway.registry import pages
from gateway.registry.core import Change
from gateway.registry.faults import Conflict
from gateway.registry.fields import Input, Patch, Reason, Sha256, unsent
from gateway.registry.pages import Page
from gateway.store import tables
from gateway.trace.record import Field, bounded
from gateway.values import Json, Risk

_t = tables.tools.c
_MAX_EVENTS = 50
"""Tool events that one scan records singly; the scan's own event counts them all."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What `data.gateway.risk` said of a definition."""

    risk: Risk
    reasons: tuple[str, ...] = ()


UNASSESSED = Assessment(Risk.CRITICAL, ("not assessed yet: scan the server",))


@dataclass(frozen=True, slots=True)
class Scan:
    """What a server's `tools/list` said, all pages together."""

    definitions: Sequence[Mapping[str, Json]]
    assessments: Mapping[str, Assessment] = field(default_factory=dict)
    """By tool name."""
    complete: bool = False
    """The walk saw the last page and every page was well-formed: only then is a tool gone."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a scan changed, by tool name."""

    tools: int
    added: list[str]
    changed: list[str]
    removed: list[str]
    suspects: list[str]
    complete: bool


class ToolPatch(Patch):
    risk_override: Risk | None = unsent()
    reason: Reason


class Acceptance(Input):
    """The digest is the one that was shown: another definition is not accepted with it."""

    definition_sha256: Sha256
    reason: Reason


@dataclass(slots=True)
class _Seen:
    """One definition on its way into the table."""

    name: str
    canonical: str
    definition_sha256: str
    description_sha256: str
    assessment: Assessment | None
    twin: Literal["none", "known", "new"] = "none"
    """Another name that folds to this one: none, or known when this one was judged, or new."""


def record_scan(change: Change, server_id: str, scan: Scan) -> Findings:
    """Store what a scan of the server found."""
    findings = _store(change, server_id, scan)
    if scan.complete:
        change.connection.execute(
            update(tables.servers)
            .where(tables.servers.c.id == server_id)
            .values(scanned_at=change.now)
        )
    codes: dict[str, Field] = {
        "server": server_id,
        "complete": scan.complete,
        "tools": findings.tools,
        "added": len(findings.added),
        "changed": len(findings.changed),
        "removed": len(findings.removed),
        "suspects": len(findings.suspects),
    }
    names = {
        "added": findings.added,
        "changed": findings.changed,
        "removed": findings.removed,
        "suspects": findings.suspects,
    }
    change.record("server.scanned", server_id, codes=codes, after=names)
    return findings


def observe(change: Change, server_id: str, definitions: Sequence[Mapping[str, Json]]) -> Findings:
    """Store what a `tools/list` that passed through showed; it proves nothing about what is gone.

    Nothing has assessed these definitions, so what is new counts as CRITICAL until a scan.
    """
    return _store(change, server_id, Scan(definitions))


def accept_scanned(change: Change, server_id: str) -> int:
    """Accept the server's new tools, as its approval does; suspects and changed ones stay out."""
    waiting = select(tables.tools).where(_t.server_id == server_id, _t.pin == "PENDING")
    rows = list(change.connection.execute(waiting))
    for row in rows:
        _accept(change, row)
    return len(rows)


def accept(change: Change, tool_id: str, asked: Acceptance) -> Row[Any]:
    """Accept the current definition. Raises `Conflict` when it is not the one that was shown."""
    row = get(change.connection, change.project_id, tool_id)
    if row.current_sha256 != asked.definition_sha256:
        raise Conflict("The definition is another one by now; look at the difference again.")
    if row.pin == "GONE":
        raise Conflict("The server does not offer this tool any more.")
    _accept(change, row)
    codes = {
        **_codes(row),
        "definition_before": row.accepted_sha256,
        "definition_after": row.current_sha256,
        "risk_before": row.accepted_risk,
        "risk_after": row.risk_computed,
    }
    change.record("tool.accepted", tool_id, codes=codes, reason=asked.reason)
    return get(change.connection, change.project_id, tool_id)


def patch(change: Change, tool_id: str, asked: ToolPatch) -> Row[Any]:
    """Set or lift an administrator's own view of the risk."""
    row = get(change.connection, change.project_id, tool_id)
    if "risk_override" in asked.model_fields_set:
        override = asked.risk_override
        change.connection.execute(
            update(tables.tools).where(_t.id == tool_id).values(risk_override=override)
        )
        codes = {**_codes(row), "risk_before": row.risk_override, "risk_after": override}
        change.record("tool.risk_overridden", tool_id, codes=codes, reason=asked.reason)
    return get(change.connection, change.project_id, tool_id)


def get(connection: Connection, project_id: str, tool_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.tools, project_id, tool_id, "tool")


def listed(
    connection: Connection, project_id: str, server_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.tools).where(_t.project_id == project_id, _t.server_id == server_id)
    return pages.page(connection, query, _t.id, cursor, limit)


def changed_members(row: Row[Any]) -> list[str]:
    """Which members of the definition differ between the accepted and the current one."""
    accepted = orjson.loads(row.accepted) if row.accepted is not None else {}
    current = orjson.loads(row.current)
    missing = object()
    return sorted(
        name
        for name in accepted.keys() | current.keys()
        if accepted.get(name, missing) != current.get(name, missing)
    )


def _store(change: Change, server_id: str, scan: Scan) -> Findings:
    known = {
        row.name: row
        for row in change.connection.execute(select(tables.tools).where(_t.server_id == server_id))
    }
    seen = _seen(scan, known)
    findings = Findings(len(seen), [], [], [], [], scan.complete)
    for tool in seen.values():
        row = known.get(tool.name)
        if row is None:
            _add(change, server_id, tool, findings)
        else:
            _compare(change, row, tool, findings)
    if scan.complete:
        for name in known.keys() - seen.keys():
            if known[name].pin != "GONE":
                _set_pin(change, known[name], "GONE", findings.removed)
    return findings


def _seen(scan: Scan, known: Mapping[str, Row[Any]]) -> dict[str, _Seen]:
    spellings: dict[str, set[str]] = {}
    for old in known:
        spellings.setdefault(fold(old), set()).add(old)
    seen: dict[str, _Seen] = {}
    for definition in scan.definitions:
        name = definition.get("name")
        if not isinstance(name, str):
            continue  # nobody can call it
        spellings.setdefault(fold(name), set()).add(name)
        if name in seen:
            # Two definitions of one name: which of them a server runs is its secret.
            seen[name].twin = "new"
            continue
        whole, description = definition_digests(definition)
        canonical = canonical_definition(definition).decode()
        seen[name] = _Seen(name, canonical, whole, description, scan.assessments.get(name))
    for tool in seen.values():
        alike = spellings[fold(tool.name)]
        if len(alike) > 1 and tool.twin == "none":
            tool.twin = "known" if alike <= known.keys() else "new"
    return seen


def _add(change: Change, server_id: str, tool: _Seen, findings: Findings) -> None:
    assessment = tool.assessment or UNASSESSED
    change.connection.execute(
        insert(tables.tools).values(
            id=new_id("tol"),
            project_id=change.project_id,
            server_id=server_id,
            name=tool.name,
            pin="PENDING" if tool.twin == "none" else "SUSPECT",
            current=tool.canonical,
            current_sha256=tool.definition_sha256,
            description_sha256=tool.description_sha256,
            risk_computed=assessment.risk,
            risk_reasons=list(assessment.reasons),
            first_seen=change.now,
            last_seen=change.now,
        )
    )
    findings.added.append(tool.name)
    if tool.twin != "none":
        findings.suspects.append(tool.name)


def _next_pin(row: Row[Any], tool: _Seen) -> str:
    if row.pin == "ACCEPTED" and tool.definition_sha256 == row.accepted_sha256:
        # A twin that was there already was seen by whoever accepted this one.
        return "SUSPECT" if tool.twin == "new" else "ACCEPTED"
    if tool.twin != "none" or row.pin == "SUSPECT":
        return "SUSPECT"
    return "PENDING" if row.pin == "PENDING" else "CHANGED"


def _compare(change: Change, row: Row[Any], tool: _Seen, findings: Findings) -> None:
    pin = _next_pin(row, tool)
    values: dict[str, Any] = {"last_seen": change.now}
    if tool.definition_sha256 != row.current_sha256:
        values |= {
            "current": tool.canonical,
            "current_sha256": tool.definition_sha256,
            "description_sha256": tool.description_sha256,
        }
    assessment = tool.assessment
    if assessment is None and tool.definition_sha256 != row.current_sha256:
        assessment = UNASSESSED
    if assessment is not None:
        values |= {
            "risk_computed": assessment.risk,
            "risk_reasons": list(assessment.reasons),
        }
        if row.pin == "ACCEPTED" == pin:
            # The definition is the accepted one; only what we think of it has changed.
            values["accepted_risk"] = assessment.risk
    change.connection.execute(update(tables.tools).where(_t.id == row.id).values(**values))
    if pin == "SUSPECT":
        findings.suspects.append(tool.name)
    if pin != row.pin:
        _set_pin(change, row, pin, findings.changed, tool.definition_sha256)


def _set_pin(
    change: Change, row: Row[Any], pin: str, names: list[str], current_sha256: str | None = None
) -> None:
    change.connection.execute(update(tables.tools).where(_t.id == row.id).values(pin=pin))
    names.append(row.name)
    if len(names) <= _MAX_EVENTS:
        codes = {
            **_codes(row),
            "pin_before": row.pin,
            "pin_after": pin,
            "definition_before": row.accepted_sha256 or row.current_sha256,
            "definition_after": current_sha256,
        }
        change.record("tool.pin_changed", row.id, codes=codes)


def _accept(change: Change, row: Row[Any]) -> None:
    change.connection.execute(
        update(tables.tools)
        .where(_t.id == row.id)
        .values(
            pin="ACCEPTED",
            accepted=row.current,
            accepted_sha256=row.current_sha256,
            accepted_risk=row.risk_computed,
        )
    )


def _codes(row: Row[Any]) -> dict[str, str]:
    return {"server": row.server_id, "tool": bounded(row.name), "tool_id": row.id}
