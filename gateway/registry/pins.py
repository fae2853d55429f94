"""Tool pins: what a server offers now, compared with what an administrator accepted of it.

A definition that differs from the accepted one never becomes callable by itself: not by a scan,
not by going back to what it was, not by vanishing and coming back. See `gateway.registry.tools`
for how it is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Row, insert, select, update

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

    Nothing has assessed these definitions, so what is new counts as CRITICAL until a scan.
    """
    return _store(change, server_id, Scan(definitions))


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
            "server": row.server_id,
            "tool": bounded(row.name),
            "tool_id": row.id,
            "pin_before": row.pin,
            "pin_after": pin,
            "definition_before": row.accepted_sha256 or row.current_sha256,
            "definition_after": current_sha256,
        }
        change.record("tool.pin_changed", row.id, codes=codes)
