"""All that the hot path looks up, in memory, as it stands in the database.

The writer reloads a project after each commit that touched it, before the change is answered: a
click is live when its answer arrives. Readers take a reference and see one consistent project.
Admission does not trust this copy: it reads the database again, inside its transaction.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any

import orjson
from sqlalchemy import Connection, select

from gateway.frozen import frozen
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

_Kind = tuple[AgentId | None, ServerId, str, tuple[ToolId, Risk] | None]
"""Agent, server, tool name, and the tool where it is known: the same rules match."""
_REMEMBERED_KINDS = 10_000
"""Kinds of calls whose rules a view remembers."""
_RISK_ORDER = {risk: n for n, risk in enumerate(Risk)}


@frozen
class ProjectView:
    """One project, whole and unchanging; a change makes another view."""

    project: Project
    agents: Mapping[AgentId, Agent]
    agents_by_name: Mapping[str, Agent]
    servers: Mapping[ServerId, Server]
    tools: Mapping[ServerId, Mapping[str, Tool]]
    rules: tuple[Rule, ...]
    overrides: Mapping[ServerId, tuple[Override, ...]]
    budgets: tuple[Budget, ...]
    stops: tuple[Stop, ...]
    keys: Mapping[KeyId, Key]
    extensions: Mapping[KeyId, Extension] = field(default_factory=dict)
    """Those whose key lives."""
    _matching: dict[_Kind, tuple[Rule, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def matching_rules(
        self, agent: Agent | None, server: Server, tool_name: str, tool: Tool | None, now: str
    ) -> list[Rule]:
        """The rules that apply to a call at `now`: few, whatever the number that exist."""
        # A view never changes, so what matched once matches again; only expiry moves. The tool may
        # come from the view before: with another risk it is another kind.
        known = (tool.id, tool.risk) if tool else None
        kind = (agent.id if agent else None, server.id, tool_name, known)
        matching = self._matching.get(kind)
        if matching is None:
            if len(self._matching) >= _REMEMBERED_KINDS:
                self._matching.clear()
            matching = self._matching[kind] = tuple(
                rule for rule in self.rules if _matches(rule, agent, server, tool_name, tool)
            )
        return [rule for rule in matching if rule.expires_at is None or rule.expires_at > now]

    def stop_for(self, server_id: ServerId, agent_ids: frozenset[str]) -> Stop | None:
        """The first stop in force that covers this server or any of these agents."""
        for stop in self.stops:
            if (
                stop.scope == "all"
                or (stop.scope == "server" and stop.target_id == server_id)
                or (stop.scope == "agent" and stop.target_id in agent_ids)
            ):
                return stop
        return None


def _matches(
    rule: Rule, agent: Agent | None, server: Server, tool_name: str, tool: Tool | None
) -> bool:
    return (
        (rule.agent_id is None or (agent is not None and rule.agent_id == agent.id))
        and (rule.server_id is None or rule.server_id == server.id)
        and (rule.tool_id is None or (tool is not None and rule.tool_id == tool.id))
        and (rule.tool_pattern is None or fnmatchcase(tool_name, rule.tool_pattern))
        and (rule.min_risk is None or _at_least(tool, rule.min_risk))
    )


def _at_least(tool: Tool | None, risk: Risk) -> bool:
    # An unknown tool may be anything, so a rule for risky tools covers it.
    return tool is None or _RISK_ORDER[tool.risk] >= _RISK_ORDER[risk]


class Directory:
    """A participant of the writer's transactions; see `gateway.store.writer.Participant`."""

    def __init__(
        self,
        keyring: Keyring,
        compile_schema: CompileSchema,
        template_versions: Callable[[], Mapping[str, str]],
    ) -> None:
        """``template_versions`` tells the version of each connector template that there is."""
        self._template_versions = template_versions
        self._keyring = keyring
        self._compile_schema = compile_schema
        self._compiled: dict[str, tuple[ArgumentFault, HeaderFault | None]] = {}
        self._projects: dict[ProjectId, ProjectView] = {}
        self._by_secret: dict[bytes, Key] = {}
        self._touched: set[ProjectId] = set()
        self._counts: dict[ProjectId, int] = {}
        # The writing thread and whoever follows other gateways both read projects: of two that
        # read the same one, the later reading is the one that stays.
        self._reading = Lock()
        self._sees: Callable[[], bool] = lambda: True
        self.epoch = 0
        """Rises with every change that becomes durable: a stop, a pause, a revocation, …"""

    # --- read by the hot path ---

    def key_of(self, secret: str) -> Key | None:
        """The active key with this secret, looked up by its SHA-256, expired or not."""
        return self._by_secret.get(hashlib.sha256(secret.encode()).digest())

    def view(self, project_id: ProjectId) -> ProjectView:
        """Raises KeyError for a project that does not exist."""
        return self._projects[project_id]

    def projects(self) -> tuple[ProjectView, ...]:
        return tuple(self._projects.values())

    def sees(self) -> bool:
        """False while changes of other gateways cannot be read: a stop may be among them."""
        return self._sees()

    # --- kept by whoever follows other gateways ---

    def must_follow(self, sees: Callable[[], bool]) -> None:
        """From now on others change projects too, and ``sees`` tells whether they are seen."""
        self._sees = sees

    def moved(self, counts: Mapping[ProjectId, int]) -> list[ProjectId]:
        """Given each project's count of changes: the projects that are not as read here."""
        with self._reading:
            return [one for one, count in counts.items() if self._counts.get(one, -1) < count]

    def reread(self, connection: Connection, project_id: ProjectId) -> None:
        """Read a project anew. The connection's snapshot begins here, after any reading before."""
        with self._reading, connection.begin():
            self._load_project(connection, project_id)
            self.epoch += 1

    # --- kept by the writer ---

    def touch(self, project_id: ProjectId) -> None:
        """Called inside a transaction: this project changed, read it again after the commit."""
        self._touched.add(project_id)

    def begin(self, connection: Connection) -> None:
        self._touched.clear()

    def mark(self) -> object:
        return frozenset(self._touched)

    def rewind(self, mark: object) -> None:
        assert isinstance(mark, frozenset)
        self._touched = set(mark)

    def rolled_back(self) -> None:
        self._touched.clear()

    def committed(self, connection: Connection) -> None:
        with self._reading:
            for project_id in self._touched:
                self._load_project(connection, project_id)
            if self._touched:
                self._touched.clear()
                self.epoch += 1

    def load(self, connection: Connection) -> None:
        """Read every project: at start, and when nobody knows what became of a commit."""
        with self._reading:
            for row in connection.execute(select(tables.projects.c.id)).all():
                self._load_project(connection, ProjectId(row.id))
            self.epoch += 1

    def _load_project(self, connection: Connection, project_id: ProjectId) -> None:
        def rows(table: Any, *conditions: Any) -> list[Any]:
            query = select(table).where(table.c.project_id == project_id, *conditions)
            return list(connection.execute(query.order_by(*table.primary_key)))

        row = connection.execute(
            select(tables.projects).where(tables.projects.c.id == project_id)
        ).one()
        agents = {AgentId(r.id): _agent(r) for r in rows(tables.agents)}
        versions = self._template_versions()
        servers = {ServerId(r.id): self._server(r, versions) for r in rows(tables.servers)}
        tools: dict[ServerId, dict[str, Tool]] = {server_id: {} for server_id in servers}
        for r in rows(tables.tools):
            tools[ServerId(r.server_id)][r.name] = self._tool(r)
        overrides: dict[ServerId, tuple[Override, ...]] = {}
        for r in rows(tables.overrides):
            server_id = ServerId(r.server_id)
            overrides[server_id] = (*overrides.get(server_id, ()), _override(r))
        key_rows = rows(tables.keys, tables.keys.c.state == "ACTIVE")
        by_name = {agent.name: agent for agent in agents.values()}
        keys = {r.secret_sha256: _key(r, by_name) for r in key_rows}
        view = ProjectView(
            project=_project(row),
            agents=agents,
            agents_by_name=by_name,
            servers=servers,
            tools=tools,
            rules=tuple(_rule(r) for r in rows(tables.rules, tables.rules.c.enabled)),
            overrides=overrides,
            budgets=tuple(_budget(r) for r in rows(tables.budgets)),
            stops=tuple(_stop(r) for r in rows(tables.stops, tables.stops.c.lifted_at.is_(None))),
            keys={key.id: key for key in keys.values()},
            extensions=self._extensions(keys.values(), rows),
        )
        # A new dict, then one assignment: a reader in another thread sees the old or the new.
        others = {k: v for k, v in self._by_secret.items() if v.project_id != project_id}
        self._by_secret = others | keys
        self._counts[project_id] = row.changes
        self._projects = self._projects | {project_id: view}

    def _extensions(
        self, keys: Iterable[Key], rows: Callable[[Any], list[Any]]
    ) -> dict[KeyId, Extension]:
        living = {key.id for key in keys if key.role is Role.EXTENSION}
        if not living:
            return {}
        named: dict[str, list[Any]] = {}
        for row in rows(tables.extension_agents):
            named.setdefault(row.extension_id, []).append(row)
        return {
            KeyId(row.id): extension(row, named.get(row.id, ()), self._keyring)
            for row in rows(tables.extensions)
            if row.id in living
        }

    def _server(self, row: Any, versions: Mapping[str, str]) -> Server:
        credential = unseal(self._keyring, row.id, row.server_url, row.auth_sealed)
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

    def _tool(self, row: Any) -> Tool:
        definition = orjson.loads(row.current if row.accepted is None else row.accepted)
        digest = row.accepted_sha256 or row.current_sha256
        if digest not in self._compiled:
            if len(self._compiled) >= _REMEMBERED_KINDS:
                self._compiled.clear()
            schema = definition.get("inputSchema")
            self._compiled[digest] = self._compile_schema(schema), compile_headers(schema)
        argument_fault, header_fault = self._compiled[digest]
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


def _is_held(row: Any, versions: Mapping[str, str]) -> bool:
    """Whether its template has another version by now than the one that was accepted for it.

    Nothing is decided by policies that nobody has looked at: what would be is refused.
    """
    now = versions.get(row.connector_type)
    return row.status == "ACTIVE" and now is not None and now != row.template_version


def stricter(computed: str, accepted: str | None) -> Risk:
    """A definition that changes must not talk its risk down before somebody accepts it."""
    return max(Risk(computed), Risk(accepted or computed), key=_RISK_ORDER.__getitem__)


def _project(row: Any) -> Project:
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


def _agent(row: Any) -> Agent:
    return Agent(AgentId(row.id), ProjectId(row.project_id), row.name, row.owner, row.state)


def _key(row: Any, agents: Mapping[str, Agent]) -> Key:
    servers = row.server_ids
    assertable = {agents[name].id for name in row.may_assert if name in agents}
    bound = {AgentId(row.agent_id)} if row.agent_id is not None else set()
    return Key(
        id=KeyId(row.id),
        project_id=ProjectId(row.project_id),
        role=Role(row.role),
        name=row.name,
        owner=row.owner,
        agent_id=None if row.agent_id is None else AgentId(row.agent_id),
        server_ids=None if servers is None else frozenset(map(ServerId, servers)),
        may_assert=frozenset(row.may_assert),
        agent_ids=frozenset(assertable | bound),
        expires_at=row.expires_at,
    )


def _rule(row: Any) -> Rule:
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


def _override(row: Any) -> Override:
    return Override(
        id=row.id,
        server_id=ServerId(row.server_id),
        policy_id=row.policy_id,
        action=Action(row.action),
        agent_id=row.agent_id,
        reason=row.reason,
        expires_at=row.expires_at,
    )


def _budget(row: Any) -> Budget:
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


def _stop(row: Any) -> Stop:
    return Stop(row.id, ProjectId(row.project_id), row.scope, row.target_id, row.reason)
