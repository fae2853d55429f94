"""Rules made by a click or by API: live with the commit, carried in the policy's input."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from sqlalchemy import Connection, Row, delete, insert, select, update

from gateway.ids import new_id
from gateway.registry import pages, tools
from gateway.registry.core import Change
from gateway.registry.faults import Invalid
from gateway.registry.fields import Description, Id, Input, Name, Patch, Time, unsent
from gateway.registry.loosening import rule_loosens
from gateway.registry.pages import Page
from gateway.registry.weakening import Wish, govern
from gateway.store import tables
from gateway.values import Action, Risk, Rule

_r = tables.rules.c
_MAX_STARS = 8
_RISKS = list(Risk)


def _pattern(value: str) -> str:
    if value.count("*") > _MAX_STARS:
        raise ValueError(f"must have at most {_MAX_STARS} stars")
    return value


Pattern = Annotated[
    Name, AfterValidator(_pattern), Field(description="A case-sensitive glob on the tool's name")
]


_Action = Annotated[Action, Field(description="What becomes of the calls that it speaks of")]
_AgentId = Annotated[Id, Field(description="For this agent alone")]
_ServerId = Annotated[Id, Field(description="For this server alone")]
_ToolId = Annotated[Id, Field(description="For this tool alone; its server is the tool's")]
_MinRisk = Annotated[Risk, Field(description="For tools of this risk and above")]
_Until = Annotated[Time, Field(description="From then on it speaks of nothing")]


class NewRule(Input):
    """Without agent, server and tool it is the project's own default for every call."""

    action: _Action
    agent_id: _AgentId | None = None
    server_id: _ServerId | None = None
    mcp_tool_id: _ToolId | None = None
    tool_pattern: Pattern | None = None
    min_risk: _MinRisk | None = None
    expires_at: _Until | None = None
    reason: Description = ""
    enabled: bool = True


class RulePatch(Patch):
    action: _Action = unsent()
    agent_id: _AgentId | None = unsent()
    server_id: _ServerId | None = unsent()
    mcp_tool_id: _ToolId | None = unsent()
    tool_pattern: Pattern | None = unsent()
    min_risk: _MinRisk | None = unsent()
    expires_at: _Until | None = unsent()
    reason: Description = unsent()
    enabled: bool = unsent()


def create(change: Change, new: NewRule) -> Row[Any]:
    """Raises `Invalid`."""
    values = new.model_dump(mode="json")
    _check(change, values)
    rule_id = new_id("pol")
    wish = Wish("rule.create", None, values, None)
    governed = govern(change, wish, loosens=_loosens(change, rule_id, None, values))
    change.connection.execute(
        insert(tables.rules).values(
            id=rule_id, project_id=change.project_id, created_at=change.now, **values
        )
    )
    change.record("rule.created", rule_id, codes=_codes(values) | governed, after=values)
    return get(change.connection, change.project_id, rule_id)


def patch(change: Change, rule_id: str, asked: RulePatch) -> Row[Any]:
    """Raises `Invalid`."""
    before = get(change.connection, change.project_id, rule_id)
    sent = asked.model_dump(mode="json", exclude_unset=True)
    if not sent:
        return before
    old = {name: getattr(before, name) for name in NewRule.model_fields}
    # An expiry that was set long ago may be past; only a new one may not.
    _check(change, {**old, "expires_at": None, **sent})
    after = {**old, **sent}
    wish = Wish("rule.patch", rule_id, sent, old)
    governed = govern(change, wish, loosens=_loosens(change, rule_id, old, after))
    change.connection.execute(update(tables.rules).where(_r.id == rule_id).values(**sent))
    codes = _codes(after) | governed
    change.record("rule.changed", rule_id, codes=codes, before=old, after=after)
    return get(change.connection, change.project_id, rule_id)


def remove(change: Change, rule_id: str) -> None:
    before = get(change.connection, change.project_id, rule_id)
    old = {name: getattr(before, name) for name in NewRule.model_fields}
    wish = Wish("rule.remove", rule_id, {}, old)
    governed = govern(change, wish, loosens=_loosens(change, rule_id, old, None))
    change.connection.execute(delete(tables.rules).where(_r.id == rule_id))
    change.record("rule.removed", rule_id, codes=_codes(old) | governed, before=old)


def get(connection: Connection, project_id: str, rule_id: str) -> Row[Any]:
    """Raises `Missing`."""
    return pages.one(connection, tables.rules, project_id, rule_id, "policy")


def listed(
    connection: Connection, project_id: str, cursor: str | None, limit: int
) -> Page[Row[Any]]:
    query = select(tables.rules).where(_r.project_id == project_id)
    return pages.page(connection, query, _r.id, cursor, limit)


def in_force(connection: Connection, project_id: str, now: str) -> list[Row[Any]]:
    """The enabled rules that have not expired."""
    query = select(tables.rules).where(
        _r.project_id == project_id,
        _r.enabled,
        _r.expires_at.is_(None) | (_r.expires_at > now),
    )
    return list(connection.execute(query))


def covering(in_force: list[Row[Any]], tool: Row[Any]) -> list[str]:
    """Ids of the rules that may match a call of the tool, by some agent at least."""
    risk = tools.risk_of(tool)
    return [
        rule.id
        for rule in in_force
        if rule.server_id in (None, tool.server_id)
        and rule.mcp_tool_id in (None, tool.id)
        and (rule.tool_pattern is None or fnmatchcase(tool.name, rule.tool_pattern))
        and (rule.min_risk is None or _RISKS.index(risk) >= _RISKS.index(Risk(rule.min_risk)))
    ]


def _check(change: Change, values: dict[str, Any]) -> None:
    faults = {}
    for name, table in (("agent_id", tables.agents), ("server_id", tables.servers)):
        row_id = values[name]
        if row_id and not pages.exists(change.connection, table, change.project_id, row_id):
            faults[name] = f"no such {name.removesuffix('_id')}"
    tool_id = values["mcp_tool_id"]
    if tool_id:
        query = select(tables.tools.c.server_id).where(
            tables.tools.c.id == tool_id, tables.tools.c.project_id == change.project_id
        )
        server_id = change.connection.execute(query).scalar_one_or_none()
        if server_id is None:
            faults["mcp_tool_id"] = "no such tool"
        elif values["server_id"] not in (None, server_id):
            faults["mcp_tool_id"] = "is no tool of that server"
        if values["tool_pattern"]:
            faults["tool_pattern"] = "give either mcp_tool_id or tool_pattern"
    if values["expires_at"] is not None and values["expires_at"] <= change.now:
        faults["expires_at"] = "is past"
    if faults:
        raise Invalid(faults)


def _codes(values: dict[str, Any]) -> dict[str, Any]:
    return {"action": values["action"], "server": values["server_id"], "agent": values["agent_id"]}


def value(rule_id: str, values: Mapping[str, Any]) -> Rule:
    """The rule as what the hot path knows it by."""
    return Rule(
        id=rule_id,
        action=Action(values["action"]),
        agent_id=values["agent_id"],
        server_id=values["server_id"],
        tool_id=values["mcp_tool_id"],
        tool_pattern=values["tool_pattern"],
        min_risk=None if values["min_risk"] is None else Risk(values["min_risk"]),
        expires_at=values["expires_at"],
        reason=values["reason"],
    )


def _loosens(
    change: Change, rule_id: str, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> bool:
    connection, project_id, now = change.connection, change.project_id, change.now

    def others() -> Iterator[Rule]:
        for row in in_force(connection, project_id, now):
            if row.id != rule_id:
                yield value(row.id, row._asdict())

    default = select(tables.projects.c.default_action).where(tables.projects.c.id == project_id)
    return rule_loosens(
        _living(rule_id, before, now),
        _living(rule_id, after, now),
        others(),
        Action(connection.execute(default).scalar_one()),
    )


def _living(rule_id: str, values: dict[str, Any] | None, now: str) -> Rule | None:
    """The rule with these values; None for one that is not there, disabled or expired."""
    if values is None or not values["enabled"]:
        return None
    if values["expires_at"] is not None and values["expires_at"] <= now:
        return None
    return value(rule_id, values)
