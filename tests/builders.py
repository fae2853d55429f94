"""Values with defaults for the tests, and a real data directory with one of everything in it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, insert, update
from sqlalchemy.pool import QueuePool

from gateway.admission import Admission
from gateway.cold.reading import ColdStore
from gateway.data_dir.state import State, is_made, open_state
from gateway.database_place import Place
from gateway.ids import new_id
from gateway.records.outcome import Outcome
from gateway.registry.keys import digest
from gateway.steps.approvals import Approvals
from gateway.store import tables
from gateway.store.rows import run
from gateway.trace.merkle import EMPTY_ROOT, leaf_hash, node_hash
from gateway.values import (
    Action,
    Affordable,
    Agent,
    AgentId,
    Approved,
    Budget,
    BudgetId,
    Call,
    Caller,
    CallId,
    Cleared,
    Decision,
    Enforcement,
    Era,
    Fate,
    Hold,
    Json,
    Key,
    KeyId,
    Permit,
    Pinned,
    Project,
    ProjectId,
    Request,
    Risk,
    Role,
    Server,
    ServerId,
    Stop,
    Tool,
    ToolId,
    Verdict,
)
from tests.places import place_of

Result = TypeVar("Result")

SECRET = "gwp_" + "s" * 43
TOOL = "query_records"
_LONG_AGO = "2026-01-01T00:00:00.000000Z"


def a_project(**changes: Any) -> Project:
    project = Project(
        id=ProjectId("prj_1"),
        slug="acme",
        name="Acme",
        default_action=Action.ALLOW,
        enforcement=Enforcement.ENFORCE,
        deny_style="error",
        on_tool_change="block",
        unknown_tools="deny",
        hide_denied_tools=True,
        weakening=None,
        key_approvers=False,
        approval_ttl_seconds=1800,
        record_inputs="all",
        retention_days=30,
    )
    return replace(project, **changes)


def an_agent(**changes: Any) -> Agent:
    agent = Agent(AgentId("agt_1"), ProjectId("prj_1"), "clerk", "olga", "ACTIVE")
    return replace(agent, **changes)


def a_key(**changes: Any) -> Key:
    key = Key(
        id=KeyId("key_1"),
        project_id=ProjectId("prj_1"),
        role=Role.PROJECT,
        name="the clerk's",
        owner="olga",
        agent_id=AgentId("agt_1"),
        server_ids=None,
        may_assert=frozenset(),
        agent_ids=frozenset({AgentId("agt_1")}),
        expires_at=None,
    )
    return replace(key, **changes)


def a_server(**changes: Any) -> Server:
    server = Server(
        id=ServerId("srv_1"),
        project_id=ProjectId("prj_1"),
        slug="crm",
        name="CRM",
        url="http://127.0.0.1:9/mcp",
        transport="streamable_http",
        template=None,
        params={},
        status="ACTIVE",
        enforcement=None,
        allow_private_network=True,
        auth_headers=(),
        revision=1,
    )
    return replace(server, **changes)


def a_definition(name: str = TOOL) -> dict[str, Json]:
    schema = {"type": "object", "properties": {"object": {"type": "string"}}}
    return {"name": name, "description": "Find records.", "inputSchema": schema}


def a_tool(**changes: Any) -> Tool:
    tool = Tool(
        id=ToolId("tol_1"),
        server_id=ServerId("srv_1"),
        name=TOOL,
        pin="ACCEPTED",
        definition_sha256="d" * 64,
        description_sha256="e" * 64,
        risk=Risk.LOW,
        risk_computed=Risk.LOW,
        annotations={},
        argument_fault=lambda _: None,
    )
    return replace(tool, **changes)


def a_caller(**changes: Any) -> Caller:
    return replace(Caller(a_project(), a_key(), an_agent(), False, a_server()), **changes)


def a_body(name: str = TOOL, arguments: Mapping[str, Json] | None = None, rpc_id: int = 1) -> bytes:
    params = {"name": name, "arguments": arguments or {}}
    message = {"jsonrpc": "2.0", "id": rpc_id, "method": "tools/call", "params": params}
    return orjson.dumps(message)


def a_request(body: bytes | None = None, **changes: Any) -> Request:
    request = Request(
        method="POST",
        server_id="srv_1",
        headers=(
            (b"authorization", b"Bearer " + SECRET.encode()),
            (b"content-type", b"application/json"),
            (b"accept", b"application/json, text/event-stream"),
        ),
        body=a_body() if body is None else body,
        client_ip="192.0.2.1",
        gone=lambda: False,
    )
    return replace(request, **changes)


def a_call(**changes: Any) -> Call:
    """Each has an id of its own; `arguments` and `tool_name` go into `params` and body too."""
    name = changes.get("tool_name", TOOL)
    arguments = changes.get("arguments", {"object": "Account"})
    call = Call(
        id=CallId(new_id("trc")),
        caller=a_caller(),
        request=a_request(a_body(name, arguments)),
        source="mcp",
        era=Era.LEGACY,
        rpc_id=1,
        tool_name=name,
        arguments=arguments,
        meta={},
        task=None,
        input_responses=None,
        is_retry=False,
        params={"name": name, "arguments": arguments},
        session=None,
    )
    return replace(call, **changes)


def a_verdict(action: Action = Action.ALLOW, **changes: Any) -> Verdict:
    verdict = Verdict(action, ("test.policy",), ("because",), (), "sha256:" + "b" * 64)
    return replace(verdict, **changes)


def a_decision(call: Call | None = None, action: Action = Action.ALLOW, **changes: Any) -> Decision:
    call = call or a_call()
    decision = Decision(
        pinned=Pinned(Cleared(call, 0), a_tool(), must_ask=False),
        verdict=a_verdict(action),
        enforced=True,
        risk=Risk.LOW,
        policy_input=orjson.dumps({"input": {"tool": {"name": call.tool_name}}}),
    )
    return replace(decision, **changes)


def an_approved(decision: Decision | None = None, budgets: tuple[Budget, ...] = ()) -> Approved:
    """Through the real step, so that its digest is the real one."""
    return Approvals().find(Affordable(decision or a_decision(), budgets))


def a_permit(approved: Approved | None = None, **changes: Any) -> Permit:
    permit = Permit(approved or an_approved(), b"l" * 32, float("inf"), 0, ())
    return replace(permit, **changes)


def a_hold(budget_id: str, window: str, amount: int = 1) -> Hold:
    return Hold(BudgetId(budget_id), window, amount)


def an_outcome(fate: Fate = Fate.ANSWERED, **changes: Any) -> Outcome:
    usual = {Fate.ANSWERED: "ok", Fate.NOT_FORWARDED: "not_sent"}
    status = usual.get(fate, fate.value)
    return replace(Outcome(fate, status, b"{}", 2, duration_us=5), **changes)  # type: ignore[arg-type]


# --- a data directory ---


def no_stop() -> Stop | None:
    return None


@dataclass(frozen=True)
class World:
    """A data directory that is open, and short ways to look into it and to change it."""

    state: State

    @property
    def caller(self) -> Caller:
        """As authentication would give it now."""
        view = self.state.directory.view(ProjectId("prj_1"))
        key = view.keys[KeyId("key_1")]
        return Caller(
            view.project, key, view.agents[AgentId("agt_1")], False, view.servers[ServerId("srv_1")]
        )

    @property
    def tool(self) -> Tool:
        return self.state.directory.view(ProjectId("prj_1")).tools[ServerId("srv_1")][TOOL]

    @property
    def budgets(self) -> tuple[Budget, ...]:
        return self.state.directory.view(ProjectId("prj_1")).budgets

    def decision(self, action: Action = Action.ALLOW, **changes: Any) -> Decision:
        """Of a new call of this world's caller; `arguments` are the call's."""
        arguments = changes.pop("arguments", {"object": "Account"})
        call = a_call(caller=changes.pop("caller", self.caller), arguments=arguments)
        pinned = Pinned(Cleared(call, self.state.directory.epoch), self.tool, must_ask=False)
        return a_decision(call, action, **{"pinned": pinned, **changes})

    def approved(self, action: Action = Action.ALLOW, **changes: Any) -> Approved:
        return an_approved(self.decision(action, **changes), self.budgets)

    def admission(
        self, stop_file: Callable[[], Stop | None] = no_stop, permit_seconds: float = 60
    ) -> Admission:
        """A machine that stands still for a moment must not look like a call admitted too late."""
        state = self.state
        return Admission(
            state.writer,
            state.log,
            state.directory,
            state.ledger,
            state.grants,
            stop_file,
            permit_seconds,
        )

    def change(self, fn: Callable[[Connection], Result]) -> Result:
        """Alter the database as the registry does: the project is read again afterwards."""

        def touching(connection: Connection) -> Result:
            self.state.directory.touch(ProjectId("prj_1"))
            return fn(connection)

        return self.state.writer.change_now(touching)

    def set(self, table: str, row_id: str, **values: Any) -> None:
        rows = tables.metadata.tables[table]
        self.change(lambda c: c.execute(update(rows).where(rows.c.id == row_id).values(**values)))

    def add_budget(self, limit: int, on_exceed: str = "BLOCK", **values: Any) -> str:
        row = {
            "id": new_id("bud"),
            "project_id": "prj_1",
            "scope": "project",
            "target_id": None,
            "dimension": "requests",
            "window": "month",
            "limit": limit,
            "on_exceed": on_exceed,
            "warn_at": 80,
            "created_at": _LONG_AGO,
        }
        row |= values
        self.change(lambda c: c.execute(insert(tables.budgets).values(**row)))
        return str(row["id"])

    def add_stop(self, scope: str = "all", target_id: str | None = None) -> str:
        stop_id = new_id("stp")
        row = {
            "id": stop_id,
            "project_id": "prj_1",
            "scope": scope,
            "target_id": target_id,
            "reason": "a drill",
            "raised_by": "olga",
            "stopped_at": _LONG_AGO,
        }
        self.change(lambda c: c.execute(insert(tables.stops).values(**row)))
        return stop_id

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.state.reader.connect() as connection, connection.begin():
            return run(connection, sql, parameters)

    def window(self, budget_id: str) -> tuple[int, int]:
        """Used and held, all windows together."""
        rows = self.rows("SELECT used, held FROM budget_windows WHERE budget_id = ?", budget_id)
        return sum(used for used, _ in rows), sum(held for _, held in rows)

    def open_calls(self) -> list[str]:
        return [row[0] for row in self.rows("SELECT call_id FROM open_calls")]

    def records(self, kind: str | None = None, call_id: str | None = None) -> list[dict[str, Any]]:
        """The bodies in the order of the log."""
        bodies = [orjson.loads(row[0]) for row in self.rows("SELECT body FROM trace ORDER BY idx")]
        return [
            body
            for body in bodies
            if kind in (None, body["kind"]) and call_id in (None, body.get("call"))
        ]

    def approvals(self) -> list[tuple[Any, ...]]:
        """State and spender, oldest first."""
        return self.rows("SELECT state, spent_by FROM approvals ORDER BY created_at, id")

    def check_log(self) -> None:
        """Everything that the log promises, from the stored bytes alone."""
        rows = self.rows("SELECT idx, project_id, pseq, body, leaf FROM trace ORDER BY idx")
        heads: dict[str, tuple[int, str]] = {}
        leaves = []
        for place, (idx, project_id, pseq, body, leaf) in enumerate(rows):
            document = orjson.loads(body)
            last, previous = heads.get(project_id, (-1, ""))
            assert (idx, document["idx"]) == (place, place)
            assert (pseq, document["pseq"]) == (last + 1, last + 1)
            assert document["pprev"] == previous
            assert document["project"] == project_id
            assert leaf == leaf_hash(body)
            heads[project_id] = (pseq, leaf.hex())
            leaves.append(leaf)
        assert self.state.log.size == len(rows)
        assert self.state.log.root() == root_of(leaves)


def root_of(leaves: list[bytes]) -> bytes:
    """The tree's root as RFC 6962, section 2.1, defines it: by recursion."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(root_of(leaves[:split]), root_of(leaves[split:]))


@contextmanager
def a_state(
    data_dir: Path, place: Place | None = None, cold: ColdStore | None = None
) -> Iterator[World]:
    """A real data directory: one project, agent, key (`SECRET`), server and accepted tool."""
    place = place or place_of(data_dir)
    new = not is_made(place)
    with open_state(data_dir, create=True, place=place, cold=cold) as state:
        world = World(state)
        if new:
            world.change(_insert_one_of_each)
        try:
            yield world
        finally:
            _wait_for_readers(state)


def _wait_for_readers(state: State) -> None:
    """A cancelled task leaves its thread behind, and whatever that reads with would not be closed
    after the engine."""
    pool = state.reader.pool
    assert isinstance(pool, QueuePool)
    until = time.monotonic() + 60
    while pool.checkedout():
        assert time.monotonic() < until, "a reader is still at it"
        time.sleep(0.005)


def _insert_one_of_each(connection: Connection) -> None:
    project, agent, key, server = a_project(), an_agent(), a_key(), a_server()
    definition = orjson.dumps(a_definition(), option=orjson.OPT_SORT_KEYS).decode()
    common = {"project_id": project.id, "created_at": _LONG_AGO}
    settings = {name: getattr(project, name) for name in Project.__dataclass_fields__}
    rows: list[tuple[Any, dict[str, Any]]] = [
        (tables.projects, {**settings, "created_at": _LONG_AGO}),
        (
            tables.agents,
            {"id": agent.id, "name": agent.name, "owner": agent.owner, "description": ""}
            | {"state": agent.state, **common},
        ),
        (
            tables.keys,
            {"id": key.id, "secret_sha256": digest(SECRET), "role": key.role, "name": key.name}
            | {"owner": key.owner, "agent_id": key.agent_id, "may_assert": [], "state": "ACTIVE"}
            | {"created_by": "olga", **common},
        ),
        (
            tables.servers,
            {"id": server.id, "slug": server.slug, "name": server.name, "description": ""}
            | {"server_url": server.url, "transport": server.transport, "params": {}}
            | {"connector_type": "custom", "status": "ACTIVE", "is_proxied": True}
            | {"allow_private_network": True, "auth_type": "none", "revision": 1, **common},
        ),
        (
            tables.tools,
            {"id": "tol_1", "project_id": project.id, "server_id": server.id, "name": TOOL}
            | {"pin": "ACCEPTED", "accepted": definition, "accepted_sha256": "d" * 64}
            | {"current": definition, "current_sha256": "d" * 64, "risk_reasons": []}
            | {"description_sha256": "e" * 64, "risk_computed": "LOW", "accepted_risk": "LOW"}
            | {"first_seen": _LONG_AGO, "last_seen": _LONG_AGO},
        ),
    ]
    for table, values in rows:
        connection.execute(insert(table).values(**values))
