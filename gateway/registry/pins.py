"""Tool pins: what a server offers now, compared with what an administrator accepted of it.

A definition that differs from the accepted one never becomes callable by itself: not by a scan,
not by going back to what it was, not by vanishing and coming back. See `gateway.registry.tools`
for how it is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.mcp.digests import canonical_definition, definition_digests
from gateway.mcp.folding import fold
from gateway.registry.core import Change
from gateway.registry.faults import Conflict
from gateway.store import tables
from gateway.trace.record import Field, bounded
from gateway.values import Json, Risk

_t = tables.tools.c
_MAX_EVENTS = 50
"""Tool events that one scan records singly; the scan's own event counts them all."""
_AT_ONCE = 1_000
"""Rows named by one statement."""
MOST_TOOLS = 5_000
"""Of one server that a scan takes; without an end, a list could fill the database."""


@frozen
class Assessment:
    """What `data.gateway.risk` said of a definition."""

    risk: Risk
    reasons: tuple[str, ...] = ()


UNASSESSED = Assessment(Risk.CRITICAL, ("not assessed yet: scan the server",))


@frozen
class Scan:
    """What a server's `tools/list` said, all pages together."""

    definitions: Sequence[Mapping[str, Json]]
    assessments: Mapping[str, Assessment] = field(default_factory=dict)
    """By tool name."""
    revision: int = 0
    """Of the server's configuration when it was asked; see `Server.revision`."""
    complete: bool = False
    """The walk saw the last page and every page was well-formed: only then is a tool gone."""


@frozen
class Findings:
    """What a scan changed, by tool name."""

    tools: int
    added: list[str]
    changed: list[str]
    removed: list[str]
    suspects: list[str]
    complete: bool


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
    """Store what a scan found. Raises `Conflict` when the server was changed meanwhile."""
    servers = tables.servers.c
    revision = change.connection.execute(
        select(servers.revision).where(
            servers.id == server_id, servers.project_id == change.project_id
        )
    ).scalar_one_or_none()
    if revision != scan.revision:
        raise Conflict("The server was changed during the scan; scan it again.")
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

    Nothing has assessed these definitions, so what is new counts as CRITICAL until a scan. Beyond
    `MOST_TOOLS` of a server nothing new is stored, and so stays unknown.
    """
    return _store(change, server_id, Scan(definitions), MOST_TOOLS)


def _store(change: Change, server_id: str, scan: Scan, most: int | None = None) -> Findings:
    connection = change.connection
    known = {
        row.name: row
        for row in connection.execute(select(tables.tools).where(_t.server_id == server_id))
    }
    seen = _seen(scan, known)
    findings = Findings(len(seen), [], [], [], [], scan.complete)
    added: list[dict[str, Any]] = []
    altered: list[dict[str, Any]] = []
    same: list[str] = []
    for tool in seen.values():
        row = known.get(tool.name)
        if row is None:
            if most is None or len(known) + len(added) < most:
                added.append(_added(change, server_id, tool, findings))
            continue
        state = _compared(change, row, tool, findings)
        if all(getattr(row, name) == value for name, value in state.items()):
            same.append(row.id)
        else:
            altered.append({"row_id": row.id, "last_seen": change.now, **state})
    if added:
        connection.execute(insert(tables.tools), added)
    if altered:
        connection.execute(update(tables.tools).where(_t.id == bindparam("row_id")), altered)
    _set(connection, same, last_seen=change.now)
    if scan.complete:
        gone = [row for name, row in known.items() if name not in seen and row.pin != "GONE"]
        for row in gone:
            _tell(change, row, "GONE", findings.removed)
        _set(connection, [row.id for row in gone], pin="GONE")
    return findings


def _set(connection: Connection, ids: list[str], **values: Any) -> None:
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        connection.execute(update(tables.tools).where(_t.id.in_(some)).values(**values))


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
        if "\0" in name:
            continue  # PostgreSQL stores none such: it stays unknown, and what it is like suspect
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


def _added(change: Change, server_id: str, tool: _Seen, findings: Findings) -> dict[str, Any]:
    assessment = tool.assessment or UNASSESSED
    findings.added.append(tool.name)
    if tool.twin != "none":
        findings.suspects.append(tool.name)
    return {
        "id": new_id("tol"),
        "project_id": change.project_id,
        "server_id": server_id,
        "name": tool.name,
        "pin": "PENDING" if tool.twin == "none" else "SUSPECT",
        "current": tool.canonical,
        "current_sha256": tool.definition_sha256,
        "description_sha256": tool.description_sha256,
        "risk_computed": assessment.risk,
        "risk_reasons": list(assessment.reasons),
        "first_seen": change.now,
        "last_seen": change.now,
    }


def _next_pin(row: Row[Any], tool: _Seen) -> str:
    if row.pin == "ACCEPTED" and tool.definition_sha256 == row.accepted_sha256:
        # A twin that was there already was seen by whoever accepted this one.
        return "SUSPECT" if tool.twin == "new" else "ACCEPTED"
    if tool.twin != "none" or row.pin == "SUSPECT":
        return "SUSPECT"
    return "PENDING" if row.pin == "PENDING" else "CHANGED"


def _compared(change: Change, row: Row[Any], tool: _Seen, findings: Findings) -> dict[str, Any]:
    """What the row says of the tool from now on."""
    pin = _next_pin(row, tool)
    is_same = tool.definition_sha256 == row.current_sha256
    assessment = tool.assessment or (None if is_same else UNASSESSED)
    state = {
        "pin": pin,
        "current": row.current if is_same else tool.canonical,
        "current_sha256": tool.definition_sha256,
        "description_sha256": tool.description_sha256,
        "risk_computed": assessment.risk if assessment else row.risk_computed,
        "risk_reasons": list(assessment.reasons) if assessment else row.risk_reasons,
        "accepted_risk": row.accepted_risk,
    }
    if assessment and row.pin == "ACCEPTED" == pin:
        # The definition is the accepted one; only what we think of it has changed.
        state["accepted_risk"] = assessment.risk
    if pin == "SUSPECT":
        findings.suspects.append(tool.name)
    if pin != row.pin:
        _tell(change, row, pin, findings.changed, tool.definition_sha256)
    return state


def _tell(
    change: Change, row: Row[Any], pin: str, names: list[str], current_sha256: str | None = None
) -> None:
    names.append(row.name)
    if len(names) <= _MAX_EVENTS:
        codes = {
            "server": row.server_id,
            "tool": bounded(row.name),
            "tool_id": row.id,
            "pin_before": row.pin,
            "pin_after": pin,
            "definition_before": row.accepted_sha256 or row.current_sha256,
            "definition_after": current_sha256,
        }
        change.record("tool.pin_changed", row.id, codes=codes)
