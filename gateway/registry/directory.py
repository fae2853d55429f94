"""All that the hot path looks up, in memory, as it stands in the database.

The writer reloads a project after each commit that touched it, before the change is answered: a
click is live when its answer arrives. Readers take a reference and see one consistent project.
Admission does not trust this copy: it reads the database again, inside its transaction.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, event, select

from gateway.frozen import frozen
from gateway.keyring import Keyring
from gateway.registry.matching import Matching
from gateway.registry.platforms import Extension
from gateway.registry.reading import READ, CompileSchema, Reading, Schemas, Written
from gateway.store import tables
from gateway.values import (
    Agent,
    AgentId,
    Budget,
    Key,
    KeyId,
    Override,
    Project,
    ProjectId,
    Rule,
    Server,
    ServerId,
    Stop,
    Tool,
)

_WRITES = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM) \"?(\w+)")
_READS = re.compile(r"\s*(?:SELECT|SAVEPOINT|RELEASE|ROLLBACK|PRAGMA|NOTIFY)\b")


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
    matching: Matching = field(repr=False, compare=False)
    """Of the rules; views with the same rules share it, and what it remembers."""
    extensions: Mapping[KeyId, Extension] = field(default_factory=dict)
    """Those whose key lives."""

    def matching_rules(
        self, agent: Agent | None, server: Server, tool_name: str, tool: Tool | None, now: str
    ) -> list[Rule]:
        """The rules that apply to a call at `now`: few, whatever the number that exist."""
        matching = self.matching.of(agent, server, tool_name, tool)
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
        self._schemas = Schemas(compile_schema)
        self._readings: dict[ProjectId, Reading] = {}
        self._projects: dict[ProjectId, ProjectView] = {}
        self._by_secret: dict[bytes, Key] = {}
        self._touched: Counter[ProjectId] = Counter()
        self._counts: dict[ProjectId, int] = {}
        self._written: set[str] | None = None
        self._unread: dict[ProjectId, set[str]] = {}
        # The writing thread and whoever follows other gateways both read projects: of two that
        # read the same one, the later reading is the one that stays.
        self._reading = Lock()
        self._sees: Callable[[], bool] = lambda: True
        self._catch_up: Callable[[], Awaitable[object]] | None = None
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

    def must_follow(
        self, sees: Callable[[], bool], catch_up: Callable[[], Awaitable[object]]
    ) -> None:
        """From now on others change projects too: ``sees`` tells whether they are seen, and
        ``catch_up`` reads what they have changed by now.
        """
        self._sees = sees
        self._catch_up = catch_up

    async def caught_up(self) -> bool:
        """Ask for what others have changed, before somebody hears that it is not there.

        Returns False where there are no others: then it is not.
        """
        if self._catch_up is None:
            return False
        await self._catch_up()
        return True

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

    def watch(self, engine: Engine) -> None:
        """From now on only tables that the engine's statements write to are read after a change.

        Statements that are given straight to the driver are not seen: see `gateway.store.rows`.
        """
        self._written = set()
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        assert self._written is not None
        if found := _WRITES.match(statement):
            self._written.add(found[1])
        elif not _READS.match(statement):
            self._written |= READ

    def touch(self, project_id: ProjectId) -> None:
        """Called inside a transaction, once for each change that it counts in the project's row:
        this project changed, read it again after the commit.
        """
        self._touched[project_id] += 1

    def begin(self, connection: Connection) -> None:
        self._touched.clear()

    def mark(self) -> object:
        return Counter(self._touched)

    def rewind(self, mark: object) -> None:
        assert isinstance(mark, Counter)
        self._touched = Counter(mark)

    def rolled_back(self) -> None:
        self._touched.clear()

    def committed(self, connection: Connection) -> None:
        if self._written and (written := self._written & READ):
            # A change that nobody has counted yet is read with the next one that is.
            for project_id in self._projects:
                self._unread.setdefault(project_id, set()).update(written)
            self._written.clear()
        with self._reading:
            for project_id, changes in self._touched.items():
                self._load_project(connection, project_id, changes)
            if self._touched:
                self._touched.clear()
                self.epoch += 1

    def load(self, connection: Connection) -> None:
        """Read every project: at start, and when nobody knows what became of a commit."""
        with self._reading:
            for row in connection.execute(select(tables.projects.c.id)).all():
                self._load_project(connection, ProjectId(row.id))
            self.epoch += 1

    def _load_project(
        self, connection: Connection, project_id: ProjectId, changes: int | None = None
    ) -> None:
        """With ``changes`` of this gateway's own alone, only what its statements wrote to is read:
        where the count says that there were others, everything.
        """
        written: Written = None
        if changes is not None and self._written is not None and project_id in self._readings:
            written = frozenset(self._unread.get(project_id, ()))
        empty = Reading(project_id, self._keyring, self._schemas)
        reading = self._readings.setdefault(project_id, empty)
        expected = self._counts.get(project_id, -1) + (changes or 0)
        project, count = reading.follow(connection, written, expected, self._template_versions())
        view = _view(project, reading, self._projects.get(project_id))
        # A new dict, then one assignment: a reader in another thread sees the old or the new.
        if view.keys is not getattr(self._projects.get(project_id), "keys", None):
            others = {k: v for k, v in self._by_secret.items() if v.project_id != project_id}
            self._by_secret = others | reading.by_secret
        if changes is not None:
            self._unread.pop(project_id, None)
        self._counts[project_id] = count
        self._projects = self._projects | {project_id: view}


def _view(project: Project, reading: Reading, before: ProjectView | None) -> ProjectView:
    same_rules = before is not None and before.rules is reading.rules
    return ProjectView(
        project=project,
        agents=reading.agents,
        agents_by_name=reading.agents_by_name,
        servers=reading.servers,
        tools=reading.tools,
        rules=reading.rules,
        overrides=reading.overrides,
        budgets=reading.budgets,
        stops=reading.stops,
        keys=reading.keys,
        matching=before.matching if before and same_rules else Matching(reading.rules),
        extensions=reading.extensions,
    )
