"""Reads a project from its rows, and makes anew only what comes of rows that are not as they were.

A project may have ten thousand agents and keys, and a change is live before it is answered: what
is read after it should be what changed, not all there is. So a table that nobody wrote to is left
alone, and of one that was written to each row is compared with what it was.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import orjson
from sqlalchemy import Connection, Row, Table, func, select

from gateway.keyring import Keyring
from gateway.mcp.param_headers import compile_headers
from gateway.registry.credentials import unseal
from gateway.registry.platforms import Extension, extension
from gateway.store import tables
from gateway.values import (
    Action,
    Agent,
    AgentId,
    ArgumentFault,
    Budget,
    Cost,
    Enforcement,
    HeaderFault,
    Json,
    Key,
    KeyId,
    Override,
    Project,
    ProjectId,
    Risk,
    Role,
    Rule,
    Server,
    ServerId,
    Stop,
    Tool,
    ToolId,
)

CompileSchema = Callable[[Json], ArgumentFault]
"""`inputSchema` to a function that says what is wrong with arguments, or None."""
Written = frozenset[str] | None
"""Names of tables; None: perhaps all."""

READ = frozenset(
    table.name
    for table in (
        *(tables.projects, tables.agents, tables.keys, tables.servers, tables.tools, tables.rules),
        *(tables.overrides, tables.budgets, tables.stops),
        *(tables.extensions, tables.extension_agents),
    )
)
"""Every table that a project is read from."""

_AT_ONCE = 500
_REMEMBERED_SCHEMAS = 10_000
_RISK_ORDER = {risk: n for n, risk in enumerate(Risk)}
_a, _k, _t = tables.agents.c, tables.keys.c, tables.tools.c
# What is compared is read often: no more of it than is needed, and no definitions of tools.
_AGENT = (_a.id, _a.project_id, _a.name, _a.owner, _a.state)
_KEY = (
    *(_k.id, _k.project_id, _k.secret_sha256, _k.role, _k.name, _k.owner, _k.agent_id),
    *(_k.server_ids, _k.may_assert, _k.expires_at),
)
_TOOL = (
    *(_t.id, _t.server_id, _t.name, _t.pin, _t.accepted_sha256, _t.current_sha256),
    *(_t.description_sha256, _t.risk_override, _t.risk_computed, _t.accepted_risk, _t.cost),
)

Value = TypeVar("Value")


class _Kept(Generic[Value]):
    """The rows of one table, by their first column, each beside what was made of it."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[Any, ...], Value]] = {}

    def follow(
        self, rows: Sequence[Row[Any]], make: Callable[[Sequence[Row[Any]]], Iterable[Value]]
    ) -> None:
        """``make`` is given the rows that are new or not as they were."""
        before = self._made
        now: dict[str, tuple[tuple[Any, ...], Any]] = {}
        moved: list[Row[Any]] = []
        for row in rows:
            columns = tuple(row)
            known = before.get(columns[0])
            if known is not None and known[0] == columns:
                now[columns[0]] = known
            else:
                now[columns[0]] = (columns, None)
                moved.append(row)
        for row, value in zip(moved, make(moved), strict=True):
            now[row[0]] = (now[row[0]][0], value)
        self._made = now

    def values(self) -> list[Value]:
        return [value for _, value in self._made.values()]


@dataclass(slots=True)
class Schemas:
    """Compiled schemas by the digest of their definition: many servers offer the same tool."""

    compile_schema: CompileSchema
    _compiled: dict[str, tuple[ArgumentFault, HeaderFault | None]] = field(default_factory=dict)

    def faults(self, digest: str, schema: Json) -> tuple[ArgumentFault, HeaderFault | None]:
        if digest not in self._compiled:
            if len(self._compiled) >= _REMEMBERED_SCHEMAS:
                self._compiled.clear()
            self._compiled[digest] = self.compile_schema(schema), compile_headers(schema)
        return self._compiled[digest]


@dataclass(slots=True)
class Reading:
    """One project as it was read last. What it holds is replaced and never changed."""

    project_id: ProjectId
    keyring: Keyring = field(repr=False)
    schemas: Schemas
    agents: Mapping[AgentId, Agent] = field(default_factory=dict)
    agents_by_name: Mapping[str, Agent] = field(default_factory=dict)
    servers: Mapping[ServerId, Server] = field(default_factory=dict)
    tools: Mapping[ServerId, Mapping[str, Tool]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    overrides: Mapping[ServerId, tuple[Override, ...]] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    stops: tuple[Stop, ...] = ()
    keys: Mapping[KeyId, Key] = field(default_factory=dict)
    by_secret: dict[bytes, Key] = field(default_factory=dict)
    extensions: Mapping[KeyId, Extension] = field(default_factory=dict)
    _keys_moved: bool = False
    _digests: Sequence[tuple[bytes, KeyId]] = ()
    _agents: _Kept[Agent] = field(default_factory=_Kept)
    _keys: _Kept[Key] = field(default_factory=_Kept)
    _servers: _Kept[Server] = field(default_factory=_Kept)
    _tools: _Kept[Tool] = field(default_factory=_Kept)
    _rules: _Kept[Rule] = field(default_factory=_Kept)
    _versions: Mapping[str, str] = field(default_factory=dict)

    def follow(
        self,
        connection: Connection,
        written: Written,
        expected: int,
        versions: Mapping[str, str],
    ) -> tuple[Project, int]:
        """Read what is not as it was; return the project itself and its count of changes.

        Another count than the expected one says that others wrote too. ``versions`` are those of
        the connector templates by now.
        """
        # Before all else: what changes while the rest is read counts up, and is read again.
        query = select(tables.projects).where(tables.projects.c.id == self.project_id)
        row = connection.execute(query).one()
        if row.changes != expected:
            written = None
        if versions != self._versions:
            self._versions, self._servers = dict(versions), _Kept()
            written = None if written is None else written | {"servers"}
        for sources, read in self._readers():
            if written is None or not written.isdisjoint(sources):
                read(connection)
        return _project(row), row.changes

    def _readers(self) -> tuple[tuple[tuple[str, ...], Callable[[Connection], None]], ...]:
        """In this order, since some look at what others have read; each with its tables."""
        return (
            (("agents",), self._follow_agents),
            (("keys",), self._follow_keys),
            (("agents", "keys"), self._bind_keys),
            (("extensions", "extension_agents", "keys"), self._follow_extensions),
            (("servers",), self._follow_servers),
            (("servers", "tools"), self._follow_tools),
            (("rules",), self._follow_rules),
            (("overrides",), self._follow_overrides),
            (("budgets",), self._follow_budgets),
            (("stops",), self._follow_stops),
        )

    def _rows(
        self, connection: Connection, table: Table, *conditions: Any, columns: Any = ()
    ) -> Sequence[Row[Any]]:
        query = select(*columns or table.c).where(table.c.project_id == self.project_id)
        return connection.execute(query.where(*conditions).order_by(*table.primary_key)).all()

    def _follow_agents(self, connection: Connection) -> None:
        rows = self._rows(connection, tables.agents, columns=_AGENT)
        self._agents.follow(rows, lambda moved: map(_agent, moved))
        agents = self._agents.values()
        self.agents = {agent.id: agent for agent in agents}
        self.agents_by_name = {agent.name: agent for agent in agents}

    def _follow_keys(self, connection: Connection) -> None:
        active = tables.keys.c.state == "ACTIVE"
        rows = self._rows(connection, tables.keys, active, columns=_KEY)
        self._keys.follow(rows, lambda moved: map(_key, moved))
        self._digests = [(row.secret_sha256, KeyId(row.id)) for row in rows]
        self._keys_moved = True

    def _bind_keys(self, _: Connection) -> None:
        if not self._keys_moved and not any(key.may_assert for key in self.keys.values()):
            return
        self._keys_moved = False
        self.keys = {key.id: self._bound(key) for key in self._keys.values()}
        self.by_secret = {digest: self.keys[key_id] for digest, key_id in self._digests}

    def _bound(self, key: Key) -> Key:
        """The key with the agents that its names stand for by now."""
        if not key.may_assert:
            return key
        names = self.agents_by_name
        named = {names[name].id for name in key.may_assert if name in names}
        return replace(key, agent_ids=key.agent_ids | named)

    def _follow_extensions(self, connection: Connection) -> None:
        living = {key.id for key in self.keys.values() if key.role is Role.EXTENSION}
        if not living:
            self.extensions = {}
            return
        named: dict[str, list[Any]] = {}
        for row in self._rows(connection, tables.extension_agents):
            named.setdefault(row.extension_id, []).append(row)
        self.extensions = {
            KeyId(row.id): extension(row, named.get(row.id, ()), self.keyring)
            for row in self._rows(connection, tables.extensions)
            if row.id in living
        }

    def _follow_servers(self, connection: Connection) -> None:
        rows = self._rows(connection, tables.servers)
        self._servers.follow(
            rows, lambda moved: (_server(row, self.keyring, self._versions) for row in moved)
        )
        self.servers = {server.id: server for server in self._servers.values()}

    def _follow_tools(self, connection: Connection) -> None:
        rows = self._rows(connection, tables.tools, columns=_TOOL)
        self._tools.follow(rows, lambda moved: self._made_tools(connection, moved))
        tools: dict[ServerId, dict[str, Tool]] = {server_id: {} for server_id in self.servers}
        for tool in self._tools.values():
            tools[tool.server_id][tool.name] = tool
        self.tools = tools

    def _made_tools(self, connection: Connection, rows: Sequence[Row[Any]]) -> Iterator[Tool]:
        definition = func.coalesce(_t.accepted, _t.current)
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            query = select(_t.id, definition).where(_t.id.in_([row.id for row in part]))
            texts = {id_: text for id_, text in connection.execute(query)}
            for row in part:
                yield _tool(row, orjson.loads(texts[row.id]), self.schemas)

    def _follow_rules(self, connection: Connection) -> None:
        enabled = self._rows(connection, tables.rules, tables.rules.c.enabled)
        self._rules.follow(enabled, lambda moved: map(_rule, moved))
        rules = tuple(self._rules.values())
        if rules != self.rules:
            self.rules = rules

    def _follow_overrides(self, connection: Connection) -> None:
        overrides: dict[ServerId, tuple[Override, ...]] = {}
        for row in self._rows(connection, tables.overrides):
            server_id = ServerId(row.server_id)
            overrides[server_id] = (*overrides.get(server_id, ()), _override(row))
        self.overrides = overrides

    def _follow_budgets(self, connection: Connection) -> None:
        self.budgets = tuple(map(_budget, self._rows(connection, tables.budgets)))

    def _follow_stops(self, connection: Connection) -> None:
        running = tables.stops.c.lifted_at.is_(None)
        self.stops = tuple(map(_stop, self._rows(connection, tables.stops, running)))


def stricter(computed: str, accepted: str | None) -> Risk:
    """A definition that changes must not talk its risk down before somebody accepts it."""
    return max(Risk(computed), Risk(accepted or computed), key=_RISK_ORDER.__getitem__)


def _server(row: Row[Any], keyring: Keyring, versions: Mapping[str, str]) -> Server:
    credential = unseal(keyring, row.id, row.server_url, row.auth_sealed)
    return Server(
        id=ServerId(row.id),
        project_id=ProjectId(row.project_id),
        slug=row.slug,
        name=row.name,
        url=row.server_url,
        transport=row.transport,
        template=None if row.connector_type == "custom" else row.connector_type,
        params=row.params,
        status="PENDING_APPROVAL" if _is_held(row, versions) else row.status,
        enforcement=None if row.enforcement is None else Enforcement(row.enforcement),
        allow_private_network=row.allow_private_network,
        auth_headers=credential.headers,
        revision=row.revision,
        oauth=credential.oauth,
        tls_ca=row.tls_ca,
    )


def _is_held(row: Row[Any], versions: Mapping[str, str]) -> bool:
    """Whether its template has another version by now than the one that was accepted for it.

    Nothing is decided by policies that nobody has looked at: what would be is refused.
    """
    now = versions.get(row.connector_type)
    return row.status == "ACTIVE" and now is not None and now != row.template_version


def _tool(row: Row[Any], definition: Json, schemas: Schemas) -> Tool:
    digest = row.accepted_sha256 or row.current_sha256
    argument_fault, header_fault = schemas.faults(digest, definition.get("inputSchema"))
    return Tool(
        id=ToolId(row.id),
        server_id=ServerId(row.server_id),
        name=row.name,
        pin=row.pin,
        definition_sha256=digest,
        description_sha256=row.description_sha256,
        risk=Risk(row.risk_override or stricter(row.risk_computed, row.accepted_risk)),
        risk_computed=Risk(row.risk_computed),
        annotations=definition.get("annotations") or {},
        argument_fault=argument_fault,
        header_fault=header_fault,
        output_schema=definition.get("outputSchema"),
        cost=None if row.cost is None else Cost(**row.cost),
    )


def _project(row: Row[Any]) -> Project:
    return Project(
        id=ProjectId(row.id),
        slug=row.slug,
        name=row.name,
        default_action=Action(row.default_action),
        enforcement=Enforcement(row.enforcement),
        deny_style=row.deny_style,
        on_tool_change=row.on_tool_change,
        unknown_tools=row.unknown_tools,
        hide_denied_tools=row.hide_denied_tools,
        weakening=row.weakening,
        key_approvers=row.key_approvers,
        approval_ttl_seconds=row.approval_ttl_seconds,
        record_inputs=row.record_inputs,
        retention_days=row.retention_days,
        breaker_repeats=row.breaker_repeats,
        breaker_refusals=row.breaker_refusals,
        breaker_action=row.breaker_action,
    )


def _agent(row: Row[Any]) -> Agent:
    return Agent(AgentId(row.id), ProjectId(row.project_id), row.name, row.owner, row.state)


def _key(row: Row[Any]) -> Key:
    """Bound to its own agent alone; see `Reading._bound`."""
    servers = row.server_ids
    bound = frozenset() if row.agent_id is None else frozenset({AgentId(row.agent_id)})
    return Key(
        id=KeyId(row.id),
        project_id=ProjectId(row.project_id),
        role=Role(row.role),
        name=row.name,
        owner=row.owner,
        agent_id=None if row.agent_id is None else AgentId(row.agent_id),
        server_ids=None if servers is None else frozenset(map(ServerId, servers)),
        may_assert=frozenset(row.may_assert),
        agent_ids=bound,
        expires_at=row.expires_at,
    )


def _rule(row: Row[Any]) -> Rule:
    return Rule(
        id=row.id,
        action=Action(row.action),
        agent_id=row.agent_id,
        server_id=row.server_id,
        tool_id=row.mcp_tool_id,
        tool_pattern=row.tool_pattern,
        min_risk=None if row.min_risk is None else Risk(row.min_risk),
        expires_at=row.expires_at,
        reason=row.reason,
    )


def _override(row: Row[Any]) -> Override:
    return Override(
        id=row.id,
        server_id=ServerId(row.server_id),
        policy_id=row.policy_id,
        action=Action(row.action),
        agent_id=row.agent_id,
        reason=row.reason,
        expires_at=row.expires_at,
    )


def _budget(row: Row[Any]) -> Budget:
    return Budget(
        id=row.id,
        project_id=ProjectId(row.project_id),
        scope=row.scope,
        target_id=row.target_id,
        dimension=row.dimension,
        window=row.window,
        limit=row.limit,
        on_exceed=row.on_exceed,
        warn_at=row.warn_at,
    )


def _stop(row: Row[Any]) -> Stop:
    return Stop(row.id, ProjectId(row.project_id), row.scope, row.target_id, row.reason)
