"""Fills a gateway's database as years of use would: agents, servers with tools, rules, records.

What people make goes through the registry, in one transaction. Records go straight into the
tables, some thousands at once, in a tree that is as the log itself would have grown it: whoever
reads the database again (`gateway verify db`) finds nothing amiss. They have no payloads, as
records have none once their retention is over.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Engine, insert

from benchmarks.upstream import TOOL
from gateway import clock
from gateway.data_dir.state import State, open_by
from gateway.ids import new_id
from gateway.registry import agents, keys, pins, rules, servers, tools
from gateway.registry.agents import NewAgent
from gateway.registry.core import Actor, Change
from gateway.registry.pins import Assessment, Scan
from gateway.registry.rules import NewRule
from gateway.registry.servers import NewServer, ServerPatch
from gateway.settings import Settings
from gateway.store import tables
from gateway.store.database import is_postgresql, writing_engine
from gateway.trace import record
from gateway.trace.log import stored_hashes
from gateway.trace.merkle import Frontier, leaf_hash, rebuild
from gateway.trace.record import Draft, Field
from gateway.values import Action, ProjectId, Risk, Role

AT_ONCE = 20_000
DAYS = 30
"""Over which the records are spread, up to now."""
TOOLS_OF_SERVER = 10
_A_COMMIT = 10
"""Records that share one, and therewith its time."""
_TRACE = tuple(column.name for column in tables.trace.c)
_TILES = tuple(column.name for column in tables.tree_tiles.c)
_Row = tuple[object, ...]


def fill_people(state: State, project: ProjectId, count: int) -> list[str]:
    """Agents, each with a key of its own; returns the keys. Only the first are on the trail."""
    secrets = [keys.secret(Role.PROJECT) for _ in range(count)]
    made: dict[str, object] = {"project_id": project, "state": "ACTIVE", "owner": "owner"}

    def make(change: Change) -> None:
        agents.create(change, NewAgent(name="first", owner="owner"))
        new = {**made, "created_at": change.now}
        ids = [new_id("agt") for _ in secrets]
        rows = [
            {**new, "id": agent_id, "name": f"agent_{n}", "description": ""}
            for n, agent_id in enumerate(ids)
        ]
        change.connection.execute(insert(tables.agents), rows)
        new |= {"role": "project", "may_assert": [], "created_by": "owner"}
        rows = [
            {**new, "id": new_id("key"), "name": f"key_{n}", "agent_id": ids[n], **_secret(shown)}
            for n, shown in enumerate(secrets)
        ]
        change.connection.execute(insert(tables.keys), rows)

    state.registry.change_now(Actor.operator(project), make)
    return secrets


def _secret(shown: str) -> dict[str, object]:
    return {"secret_sha256": keys.digest(shown), "server_ids": None, "expires_at": None}


def fill_servers(state: State, project: ProjectId, count: int, url: str) -> list[str]:
    """Active servers at one address, each with accepted tools; returns their ids."""
    return state.registry.change_now(
        Actor.operator(project),
        lambda change: [_server(change, n, url) for n in range(count)],
    )


def _server(change: Change, n: int, url: str) -> str:
    new = NewServer(name=f"server {n}", server_url=url, allow_private_network=True)
    server = servers.register(change, new)
    definitions = [TOOL, *({**TOOL, "name": f"tool_{t}"} for t in range(1, TOOLS_OF_SERVER))]
    low = {str(one["name"]): Assessment(Risk.LOW) for one in definitions}
    pins.record_scan(change, server.id, Scan(definitions, low, server.revision, complete=True))
    tools.accept_scanned(change, server.id)
    servers.patch(change, server.id, ServerPatch(status="ACTIVE"))
    return str(server.id)


def fill_rules(state: State, project: ProjectId, count: int) -> None:
    """One that lets the calls of the benchmarks through, and others that match none of them."""

    def make(change: Change) -> None:
        rules.create(
            change, NewRule(action=Action.ALLOW, tool_pattern=str(TOOL["name"]), reason="reads")
        )
        for n in range(count - 1):
            rules.create(
                change, NewRule(action=Action.DENY, tool_pattern=f"other_{n}", reason="no")
            )

    state.registry.change_now(Actor.operator(project), make)


# --- records ---


class Tree:
    """Where the log stands, and the rows that lead from there to where it will stand."""

    def __init__(self, number: int, frontier: Frontier, pseq: int, leaf: bytes) -> None:
        self.number = number
        self.frontier = frontier
        self.rows: list[_Row] = []
        self.tiles: list[_Row] = []
        self._pseq = pseq
        self._leaf = leaf

    def add(self, draft: Draft, ts: str) -> None:
        idx = self.frontier.size
        self._pseq += 1
        place = record.Place(idx, ts, self._pseq, self._leaf.hex())
        body = record.body(draft, place, None)
        self._leaf = leaf_hash(body)
        self.frontier.add(self._leaf, self._on_tile)
        get = draft.fields.get
        here = (self.number, idx, draft.id, draft.call_id, draft.project_id, self._pseq, ts)
        named = tuple(
            get(name) for name in ("decision", "reason_code", "risk", "agent", "server", "tool")
        )
        policies = record.listed_policies(get("rules"))
        self.rows.append((*here, draft.kind, *named, policies, body, self._leaf))

    def _on_tile(self, level: int, n: int, digest: bytes) -> None:
        self.tiles.append((self.number, level, n, digest))


def fill_records(settings: Settings, project: ProjectId, count: int) -> None:
    """So many records more, of calls with their outcomes. No gateway may have the database open."""
    with open_by(settings) as state:
        head = state.log.head
        pseq, leaf = state.log.project_heads().get(project, (-1, b""))
    engine = writing_engine(settings.database)
    with engine.connect() as connection, connection.begin():
        frontier = rebuild(head.size, stored_hashes(connection, head.number))
    tree = Tree(head.number, frontier, pseq, leaf)
    first = time.time() - DAYS * 86_400
    drafts = _drafts(project)
    for start in range(0, count, AT_ONCE):
        for n in range(start, min(count, start + AT_ONCE)):
            if n % _A_COMMIT == 0:
                ts = clock.rfc3339(first + n / count * DAYS * 86_400)
            tree.add(next(drafts), ts)
        _write(engine, tree)
    engine.dispose()
    with open_by(settings) as state:
        state.writer.change_now(state.checkpoints.make)


def _drafts(project: ProjectId) -> Iterator[Draft]:
    for n in itertools.count():
        call = new_id("trc")
        who: dict[str, Field] = {
            "server": f"srv_{n % 10}",
            "tool": f"tool_{n % TOOLS_OF_SERVER}",
            "agent": f"agt_{n % 100}",
            "key": f"key_{n % 100}",
        }
        denied = n % 20 == 0
        decided: dict[str, Field] = {
            "decision": "DENY" if denied else "ALLOW",
            "risk": "LOW",
            "rules": ["rule:pol_1"],
            "effect": "refuse" if denied else "forward",
            "policy": "sha256:" + "0" * 64,
            "tool_hash": "0" * 64,
            "tool_description": "0" * 64,
        }
        if denied:
            decided["reason_code"] = "policy_denied"
        yield Draft("decision", call, project, {**who, **decided}, call_id=call)
        ended: dict[str, Field] = {"fate": "answered", "status": "ok", "dur_us": 900}
        yield Draft("outcome", new_id("out"), project, {**who, **ended}, call_id=call)


def _write(engine: Engine, tree: Tree) -> None:
    """All of it in one transaction, which need not survive the machine."""
    with engine.connect() as connection:
        postgresql = is_postgresql(connection)
        lazy = "SET synchronous_commit = off" if postgresql else "PRAGMA synchronous = OFF"
        driver: Any = connection.connection.driver_connection
        driver.execute(lazy)
        with connection.begin():
            write = _copy if postgresql else _insert
            write(driver.cursor(), "trace", _TRACE, tree.rows)
            write(driver.cursor(), "tree_tiles", _TILES, tree.tiles)
    tree.rows.clear()
    tree.tiles.clear()


def _insert(cursor: Any, table: str, columns: Sequence[str], rows: Sequence[_Row]) -> None:
    marks = ", ".join("?" * len(columns))
    cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def _copy(cursor: Any, table: str, columns: Sequence[str], rows: Sequence[_Row]) -> None:
    with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
