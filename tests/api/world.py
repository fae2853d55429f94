"""A real database, the API over it in memory, and keys of every role in two projects."""

import base64
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from sqlalchemy import Row, insert, select
from starlette.applications import Starlette

from gateway.api.context import ApiContext, Readiness
from gateway.api.errors import EXCEPTION_HANDLERS
from gateway.api.routes import BASE, routes
from gateway.clock import after
from gateway.cold.reading import ColdStore
from gateway.data_dir.state import State, open_state
from gateway.dry_run import DryRun, Question
from gateway.extensions.control_plane import ControlPlane
from gateway.extensions.entra import EntraTokens
from gateway.extensions.reports import Reports
from gateway.ids import new_id
from gateway.keyring import encrypt
from gateway.policy.activation import PolicyStatus
from gateway.policy.replay import Replay
from gateway.policy.risk import RiskAssessment, RiskAssessor
from gateway.registry import extensions, projects
from gateway.registry.consents import Granted
from gateway.registry.core import Actor
from gateway.registry.extensions import NewExtension
from gateway.registry.faults import Unready
from gateway.registry.keys import NewKey, create
from gateway.registry.pins import Assessment, Scan
from gateway.registry.projects import NewProject
from gateway.steps.policy import Policy
from gateway.store import tables
from gateway.trace.checkpoint import Signing
from gateway.values import Json, Key, ProjectId, Risk, Role, Server, Stop
from gateway.what_if import Candidate
from tests import builders
from tests.pipeline_world import Line, a_line
from tests.places import place_of

SCOPES = ["webhook:ingest", "decide", "traces:read"]
PUBLIC_URL = "https://gateway.example.com"


def a_tool(name: str = "query_records", description: str = "Read records") -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


@dataclass
class Upstream:
    """What the app would do over the network; `tools` are what the next scan finds."""

    tools: list[dict[str, Any]] = field(default_factory=lambda: [a_tool()])
    complete: bool = True
    reachable: bool = True
    risk: Risk = Risk.LOW
    scans: int = 0
    ready: bool = True
    running_calls: int = 3
    wait: float = 0.0
    policy: PolicyStatus = field(default_factory=lambda: PolicyStatus(None, None, None))
    archives: dict[str, bytes] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    keys: bytes = b""
    """Of the issuer of tokens; empty: it cannot be reached."""
    key_sets: list[str] = field(default_factory=list)
    """Where they were asked for."""
    questions: list[tuple[Key, Question]] = field(default_factory=list)

    async def scan(self, server: Server) -> Scan:
        self.scans += 1
        if not self.reachable:
            raise Unready("The server cannot be reached.")
        assessed = {tool["name"]: Assessment(self.risk, ("because",)) for tool in self.tools}
        return Scan(list(self.tools), assessed, server.revision, self.complete)

    async def redeem(self, server: Server, code: str, verifier: str, redirect: str) -> Granted:
        raise Unready("There is no authorization server.")

    async def decide(self, key: Key, question: Question) -> Mapping[str, Json]:
        self.questions.append((key, question))
        return {
            "action": "DENY",
            "reason_code": "policy_denied",
            "risk_level": "HIGH",
            "revision": "sha256:" + "0" * 64,
            "blocked_by": ["server_pending"],
            "enforced": True,
            "policy_ids": ["salesforce.bulk_export"],
            "reasons": ["Bulk export is denied"],
        }

    async def key_set(self, url: str) -> bytes:
        self.key_sets.append(url)
        if not self.keys:
            raise OSError("unreachable")
        return self.keys

    async def readiness(self) -> Readiness:
        return Readiness(self.ready, {"opa": "ok" if self.ready else "down"})

    async def bundle(self, digest: str) -> bytes | None:
        return self.archives.get(digest)

    async def what_if(self, project_id: ProjectId, candidate: Candidate) -> tuple[Replay, int]:
        raise Unready("No policy is active yet; try again.")

    def cancel_calls(self, stop: Stop) -> int:
        self.stops.append(stop)
        return self.running_calls


@dataclass
class World:
    state: State
    upstream: Upstream
    context: ApiContext
    project_id: ProjectId
    keys: dict[Role, str]
    """Secrets, by role."""
    foreign_id: ProjectId
    foreign: str
    """An admin's secret in the other project."""
    line: Line
    """The pipeline behind the control plane; its policy says what a test has it say."""

    @asynccontextmanager
    async def client(self, key: str | Role | None = Role.ADMIN) -> AsyncIterator[httpx.AsyncClient]:
        secret = self.keys[key] if isinstance(key, Role) else key
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        app = Starlette(routes=routes(self.context), exception_handlers=EXCEPTION_HANDLERS)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        base = PUBLIC_URL + BASE + "/"
        async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
            yield client

    def key(self, role: Role = Role.PROJECT, **given: Any) -> tuple[Key, str]:
        """Make another key: its value and its secret."""
        new = NewKey.model_validate({"role": role.value, "name": "k", "owner": "Kim"} | given)
        by = Actor.operator(self.project_id)
        _, secret = self.state.registry.change_now(by, lambda change: create(change, new))
        found = self.state.directory.key_of(secret)
        assert found is not None
        return found, secret

    def events(self) -> list[str]:
        """What was changed, in the order of the log."""
        with self.state.reader.connect() as connection, connection.begin():
            rows = connection.execute(select(tables.trace.c.body).order_by(tables.trace.c.idx))
            bodies = [orjson.loads(row.body) for row in rows]
        return [body["event"] for body in bodies if body["kind"] == "event"]

    def extension(self, **given: Any) -> tuple[Row[Any], str, bytes]:
        """Make an extension: its row, its key, its signing secret."""
        usual = {"name": "crm", "type": "custom"} | {"scopes": SCOPES}
        new = NewExtension.model_validate(usual | given)
        row, key, signing = self.state.registry.change_now(
            Actor.operator(self.project_id), lambda change: extensions.create(change, new)
        )
        return row, key, base64.b64decode(signing.removeprefix("whsec_"))

    def approval(self, secret: str, *, seconds: float = 1800, **given: Any) -> str:
        """Put an approval into the table as admission would, asked for by the key."""
        key = self.state.directory.key_of(secret)
        assert key is not None
        approval_id = new_id("apr")
        now = self.state.clock.now()
        params = b'{"name":"delete_record","arguments":{"id":"001"}}'
        row = {
            "id": approval_id,
            "project_id": key.project_id,
            "key_id": key.id,
            "agent_id": key.agent_id,
            "server_id": "srv_1",
            "tool_name": "delete_record",
            "definition_sha256": "0" * 64,
            "server_revision": 1,
            "digest": "d",
            "risk": "HIGH",
            "policy_ids": ["p"],
            "reason": "deletes ask",
            "call_sealed": encrypt(self.state.keyring.data, params, approval_id.encode()),
            "trace_id": new_id("trc"),
            "state": "PENDING",
            "created_at": now,
            "expires_at": after(now, seconds),
        } | given
        self.state.writer.change_now(
            lambda connection: connection.execute(insert(tables.approvals).values(**row)).rowcount
        )
        return approval_id


class FakeRisks(RiskAssessor):
    """LOW, unless the tool's name begins with what deletes."""

    def __init__(self) -> None:
        pass

    async def risks(self, definitions: Sequence[Mapping[str, Json]]) -> list[RiskAssessment]:
        return [
            RiskAssessment(Risk.HIGH if str(one["name"]).startswith("delete") else Risk.LOW, ())
            for one in definitions
        ]


def a_control_plane(
    line: Line, risks: RiskAssessor | None = None, revision: str = "1"
) -> ControlPlane:
    """Over the line's pipeline, whose policy is at the revision."""
    state, pipeline = line.world.state, line.pipeline
    dry_run = DryRun(
        state.directory,
        pipeline.emergency_stop,
        pipeline.tool_pins,
        pipeline.policy,
        pipeline.budget,
        pipeline.refused_calls,
    )
    reports = Reports(state.writer, state.log, state.ledger)
    return ControlPlane(
        pipeline, dry_run, risks or FakeRisks(), reports, state.registry, lambda: revision
    )


@contextmanager
def a_world(
    folder: Path,
    policy: Policy | None = None,
    risks: RiskAssessor | None = None,
    cold: ColdStore | None = None,
) -> Iterator[World]:
    """Two projects; in the first a key of each role, the approver's owner being Robin."""
    upstream = Upstream()
    with open_state(folder, create=True, cold=cold, place=place_of(folder)) as state:
        line = a_line(builders.World(state), policy)
        context = ApiContext(
            control_plane=a_control_plane(line, risks),
            entra=EntraTokens(upstream.key_set),
            registry=state.registry,
            public_url=PUBLIC_URL,
            scan=upstream.scan,
            redeem=upstream.redeem,
            decide=upstream.decide,
            readiness=upstream.readiness,
            cancel_calls=upstream.cancel_calls,
            policy_status=lambda: upstream.policy,
            policy_bundle=upstream.bundle,
            what_if=upstream.what_if,
            checkpoint=Signing(state.writer, state.checkpoints).now,
            vacated=state.vacated,
            take=lambda _: upstream.wait,
        )
        own, _, admin = projects.create_now(
            state.registry, NewProject(name="One", slug="one", key_approvers=True), _an_admin()
        )
        other, _, foreign = projects.create_now(
            state.registry, NewProject(name="Two", slug="two"), _an_admin()
        )
        world = World(
            state=state,
            upstream=upstream,
            context=context,
            project_id=ProjectId(own.id),
            keys={Role.ADMIN: admin},
            foreign_id=ProjectId(other.id),
            foreign=foreign,
            line=line,
        )
        for role in (Role.PROJECT, Role.APPROVER, Role.AUDITOR):
            owner = {"owner": "Robin"} if role is Role.APPROVER else {}
            world.keys[role] = world.key(role, **owner)[1]
        world.keys[Role.EXTENSION] = world.extension()[1]
        yield world


def _an_admin() -> NewKey:
    return NewKey(role="admin", name="first", owner="Alex")
