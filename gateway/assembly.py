"""All the parts, put together; `gateway.app` runs them."""

import socket
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

import structlog

from gateway.admission import Admission
from gateway.api.context import Readiness
from gateway.assets import asset
from gateway.background import policy_trail
from gateway.background.shared_policy import SharedPolicy
from gateway.cold.archive import Archive
from gateway.data_dir.state import State
from gateway.dry_run import DryRun
from gateway.edge import TokenBuckets
from gateway.extensions.control_plane import ControlPlane
from gateway.extensions.entra import EntraTokens, KeySets
from gateway.extensions.reports import Reports
from gateway.frozen import frozen
from gateway.http1.client import Client
from gateway.in_band.approvals import InBand
from gateway.in_band.tasks import OwnTasks
from gateway.listeners import address_of, management_token, url_of
from gateway.mcp.continuations import Continuations
from gateway.mcp.conversation import Conversation
from gateway.mcp.handles import Handles
from gateway.mcp.relay import Relay
from gateway.mcp.screening import Screening
from gateway.mcp.seals import Seals
from gateway.mcp.stdio import StdioServers, read_programs
from gateway.mcp.tokens import Tokens
from gateway.mcp.upstream import Upstreams
from gateway.notifications.delivery import Delivery, the_delivery
from gateway.pipeline import Pipeline
from gateway.policy import opa_binary
from gateway.policy.activation import Activation
from gateway.policy.bundle_server import BundleServer
from gateway.policy.engine import Engine
from gateway.policy.opa import Opa
from gateway.policy.opa_process import OpaProcess
from gateway.policy.risk import RiskAssessor
from gateway.policy.sidecar import Sidecar
from gateway.policy.sources import the_sources
from gateway.records.refused_calls import RefusedCalls
from gateway.registry.stop_file import StopFile
from gateway.scans import Scans
from gateway.settings import Settings
from gateway.steps.approvals import Approvals
from gateway.steps.authenticate import Authenticate
from gateway.steps.breaker import Breaker
from gateway.steps.budget import BudgetLook
from gateway.steps.emergency_stop import EmergencyStop
from gateway.steps.inspection import Inspection
from gateway.steps.methods import Methods
from gateway.steps.policy import Policy
from gateway.steps.tool_pins import ToolPins
from gateway.steps.visibility import Visibility
from gateway.telemetry.tracing import Tracing
from gateway.trace.checkpoint import Signing
from gateway.values import Caller, Stop, StopId
from gateway.what_if import WhatIf

Sockets = tuple[socket.socket, socket.socket]
"""The public listener's and the management listener's."""

CALLS_PER_SECOND = 10_000.0
CALLS_AT_ONCE = 20_000.0
"""One key's token bucket at the edge: a flood's bound, not a budget."""

CUTS_KEPT = 100

_log = structlog.get_logger(__name__)


@frozen
class Gateway:
    """All that runs, put together; see `build`."""

    settings: Settings
    state: State
    bundles: BundleServer
    opa: Opa
    policy: Activation
    upstreams: Upstreams
    tokens: Tokens
    pipeline: Pipeline
    dry_run: DryRun
    control_plane: ControlPlane
    entra: EntraTokens
    scans: Scans
    what_if: WhatIf
    stop_file: StopFile
    delivery: Delivery
    buckets: TokenBuckets
    signing: Signing
    archive: Archive | None
    """Moves old records out; None where they stay in the database."""
    public_url: str
    management_url: str
    cuts: dict[StopId, int] = field(default_factory=dict)
    """How many calls were cut for each of the newest stops."""

    async def readiness(self) -> Readiness:
        opa = self.opa.status()
        checks = {
            "log": "the last write failed" if self.state.writer.failing else "ok",
            "stop file": self.stop_file.fault or "ok",
            "opa": "ok" if opa.ready else opa.last_error or "not on the current bundle yet",
        }
        if self.policy.behind:
            checks["opa"] = "not on the bundle that the other gateways serve"
        ready = all(check == "ok" for check in checks.values())
        # The last good policy decides: broken sources must be seen, and keep nobody from calling.
        failure = self.policy.status().last_failure
        broken = failure is not None and failure.resolved_at is None
        checks |= self.state.checkpoints.warnings() | self.upstreams.warnings()
        checks |= {} if self.archive is None else self.archive.warnings()
        checks["policy"] = f"the last good one decides; {failure}" if broken else "ok"
        return Readiness(ready, checks)

    def cancel_calls(self, stop: Stop) -> int:
        """Cut the running calls that a stop covers; return how many were cut for it in all.

        On a shared database the stop may be known from there before who raised it comes to ask.
        """

        def covers(caller: Caller) -> bool:
            if stop.project_id not in (None, caller.project.id):
                return False
            agents = {caller.agent.id} if caller.agent else set()
            match stop.scope:
                case "all":
                    return True
                case "server":
                    return stop.target_id == caller.server.id
                case "agent":
                    return stop.target_id in agents | caller.key.agent_ids

        cut = self.cuts.pop(stop.id, 0) + self.upstreams.cut(covers)
        self.cuts[stop.id] = cut
        if len(self.cuts) > CUTS_KEPT:
            del self.cuts[next(iter(self.cuts))]
        return cut


def build(
    settings: Settings, state: State, tracing: Tracing | None, binary: Path, sockets: Sockets
) -> Gateway:
    """Put the parts together; nothing runs yet, and nothing is asked of the network."""
    now = state.clock.now
    bundles = BundleServer(management_token(settings.data_dir))
    opa, activation, engine = _deciding(settings, state, binary, bundles)
    handles = Handles(Seals(state.keyring.handles))
    tokens, upstreams = _upstreams(settings, state, sockets, handles)
    stop_file = StopFile(settings.data_dir)
    buckets = TokenBuckets(per_second=CALLS_PER_SECOND, burst=CALLS_AT_ONCE)
    emergency_stop = EmergencyStop(state.directory, lambda: stop_file.seen)
    tool_pins = ToolPins(state.directory)
    policy = Policy(engine, view=state.directory.view, now=now)
    budget = BudgetLook(state.directory, state.ledger, now)
    refused_calls = RefusedCalls(state.writer, state.log, now)
    screening = Screening(engine, lambda: bundles.features.responses, now)
    pipeline = Pipeline(
        directory=state.directory,
        authenticate=Authenticate(state.directory, now, buckets.take),
        handles=handles,
        emergency_stop=emergency_stop,
        tool_pins=tool_pins,
        breaker=Breaker(),
        policy=policy,
        budget=budget,
        approvals=Approvals(),
        admission=_admission(settings, state, stop_file),
        upstreams=upstreams,
        inspection=Inspection(screening),
        settlement=state.settlement,
        refused_calls=refused_calls,
        relay=_relay(state, engine, bundles, upstreams, screening, refused_calls),
        in_band=_in_band(settings, state, sockets[0]),
        tracing=tracing,
    )
    dry_run = DryRun(state.directory, emergency_stop, tool_pins, policy, budget, refused_calls)
    return Gateway(
        settings=settings,
        state=state,
        bundles=bundles,
        opa=opa,
        policy=activation,
        upstreams=upstreams,
        tokens=tokens,
        pipeline=pipeline,
        dry_run=dry_run,
        what_if=WhatIf(state.registry, state.keyring, binary, settings.policy_dirs, bundles),
        control_plane=_control_plane(state, pipeline, dry_run, RiskAssessor(engine), bundles),
        entra=EntraTokens(KeySets(settings.private_upstreams, _addresses(sockets))),
        scans=Scans(upstreams, RiskAssessor(engine)),
        stop_file=stop_file,
        delivery=the_delivery(settings, state.registry, _addresses(sockets)),
        buckets=buckets,
        signing=Signing(state.writer, state.checkpoints),
        archive=archive_of(settings, state),
        public_url=url_of(sockets[0], secure=settings.tls_cert is not None),
        management_url=url_of(sockets[1], secure=False),
    )


def archive_of(settings: Settings, state: State) -> Archive | None:
    """None where no cold storage is set up."""
    if state.cold is None:
        return None
    now, days = state.clock.now, settings.cold_after_days
    holder = state.log.slot.holder
    return Archive(state.cold, state.writer, state.reader, now, days, settings.sinks, holder)


def _deciding(
    settings: Settings, state: State, binary: Path, bundles: BundleServer
) -> tuple[Opa, Activation, Engine]:
    """A gateway that lags behind the others' bundle asks nobody, and refuses."""
    opa = _opa(settings, state, binary, bundles)
    activation = _activation(settings, state, binary, bundles, opa)
    client = Client(opa.address)
    engine = Engine(
        client,
        bundles,
        ready=lambda: opa.ready and not activation.behind,
        seconds=settings.decision_seconds,
    )
    return opa, activation, engine


def _in_band(settings: Settings, state: State, sock: socket.socket) -> InBand:
    seals = Seals(state.keyring.handles)
    public_url = settings.public_url or url_of(sock, secure=settings.tls_cert is not None)
    own = OwnTasks(state.registry, seals, public_url)
    held = settings.approval_hold_seconds
    return InBand(Continuations(seals), own, state.registry, public_url, held)


def _admission(settings: Settings, state: State, stop_file: StopFile) -> Admission:
    return Admission(
        state.writer,
        state.log,
        state.directory,
        state.ledger,
        state.grants,
        stop_file.read,
        settings.permit_seconds,
    )


def _control_plane(
    state: State, pipeline: Pipeline, dry_run: DryRun, risks: RiskAssessor, bundles: BundleServer
) -> ControlPlane:
    reports = Reports(state.writer, state.log, state.ledger)
    return ControlPlane(pipeline, dry_run, risks, reports, state.registry, lambda: bundles.revision)


def _opa(settings: Settings, state: State, binary: Path, bundles: BundleServer) -> Opa:
    if settings.opa_place is not None:
        return Sidecar(settings.opa_place, bundles)
    return OpaProcess(
        binary=binary,
        config=asset("opa-config.yaml"),
        data_dir=settings.data_dir,
        token=bundles.token.decode(),
        key=state.keyring.bundle,
        bundles=bundles,
    )


def _upstreams(
    settings: Settings,
    state: State,
    sockets: Sockets,
    handles: Handles,
) -> tuple[Tokens, Upstreams]:
    private = settings.private_upstreams
    listeners = _addresses(sockets)
    tokens = Tokens(state.registry, private_allowed=private, listeners=listeners)
    stdio = StdioServers(
        read_programs(settings), lambda project_id: state.directory.view(project_id).project.slug
    )
    upstreams = Upstreams(
        handles, private_allowed=private, listeners=listeners, tokens=tokens, stdio=stdio
    )
    return tokens, upstreams


def _relay(
    state: State,
    engine: Engine,
    bundles: BundleServer,
    upstreams: Upstreams,
    screening: Screening,
    refused_calls: RefusedCalls,
) -> Relay:
    view, now = state.directory.view, state.clock.now
    visibility = Visibility(engine, features=lambda: bundles.features, view=view, now=now)
    methods = Methods(engine, refused_calls, features=lambda: bundles.features, view=view, now=now)
    conversation = Conversation(methods, upstreams)
    return Relay(upstreams, state.registry, visibility, conversation, screening)


def _activation(
    settings: Settings, state: State, binary: Path, bundles: BundleServer, opa: Opa
) -> Activation:
    return Activation(
        sources=lambda: the_sources(settings.policy_dirs),
        rego=asset("rego"),
        binary=binary,
        key=state.keyring.bundle,
        archive=settings.data_dir / "bundles",
        bundles=bundles,
        opa=opa,
        now=state.clock.now,
        tell=lambda news: policy_trail.record(state, news),
        proved=opa_binary.proved_dir(),
        sharing=SharedPolicy(state) if isinstance(state.place, str) else None,
    )


def _addresses(sockets: Iterable[socket.socket]) -> frozenset[tuple[str, int]]:
    return frozenset(address_of(sock) for sock in sockets)
