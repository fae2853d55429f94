"""Builds everything and runs it: the one place where the parts are put together."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import metrics, policy_trail
from gateway.admission import Admission
from gateway.anchors import setup as anchors
from gateway.api.context import ApiContext, Readiness
from gateway.api.errors import EXCEPTION_HANDLERS
from gateway.api.routes import management_routes, routes
from gateway.assets import asset
from gateway.dashboard.context import DashboardContext
from gateway.dashboard.entry import Dashboard, is_ours
from gateway.dry_run import DryRun
from gateway.edge import PROXY_PATH, Edge, TokenBuckets
from gateway.extensions.control_plane import ControlPlane
from gateway.extensions.entra import EntraTokens, KeySets
from gateway.first_start import let_in
from gateway.housekeeping import Housekeeping
from gateway.http1 import Client, UnixAddress
from gateway.in_band import InBand
from gateway.listeners import GRACE_SECONDS, Listener, address_of, bind, management_token, url_of
from gateway.mcp.continuations import Continuations
from gateway.mcp.conversation import Conversation
from gateway.mcp.handles import Handles
from gateway.mcp.proxy import Proxy
from gateway.mcp.relay import Relay
from gateway.mcp.scan import ScanFailed, scan
from gateway.mcp.screening import Screening
from gateway.mcp.seals import Seals
from gateway.mcp.stdio import StdioServers, read_programs
from gateway.mcp.tokens import Tokens
from gateway.mcp.upstream import Upstreams
from gateway.notifications.delivery import Delivery, the_delivery
from gateway.pipeline import Pipeline
from gateway.policy import opa_binary
from gateway.policy.activation import Activation
from gateway.policy.bundle_server import PATH as BUNDLE_PATH
from gateway.policy.bundle_server import BundleServer
from gateway.policy.engine import Engine, EngineFault
from gateway.policy.opa import Opa
from gateway.policy.risk import RiskAssessor
from gateway.policy.sources import the_sources
from gateway.refused_calls import RefusedCalls
from gateway.registry.faults import Unready
from gateway.registry.pins import Assessment, Scan
from gateway.registry.stop_file import StopFile
from gateway.reports import Reports
from gateway.settings import Settings
from gateway.sinks import follow as sinks
from gateway.state import State, open_by
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
from gateway.takeover import Tenure
from gateway.task_runs import TaskRuns
from gateway.tasks import OwnTasks
from gateway.trace.checkpoint import Signing
from gateway.values import Caller, Server, Stop
from gateway.what_if import WhatIf

CALLS_PER_SECOND = 10_000.0
CALLS_AT_ONCE = 20_000.0
"""One key's token bucket at the edge: a flood's bound, not a budget."""
SIGN_INS_PER_SECOND = 0.2
SIGN_INS_AT_ONCE = 20
"""From one address, whoever it says it is."""
OPA_READY_SECONDS = 15.0
DRAIN_SECONDS = 3.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a gateway that has started answers."""

    base_url: str
    management_url: str


def serve(settings: Settings, *, ready: Callable[[Ready], None] | None = None) -> None:
    """Run the gateway until SIGINT or SIGTERM. `ready` is called once, when calls are answered.

    Raises `gateway.state.NotInitialised`, `gateway.listeners.PortTaken`,
    `gateway.policy.opa_binary.OpaMissing` and the like before anything has started.
    """
    anchors.check(settings)
    sinks.check(settings)
    binary = opa_binary.find()
    public = bind(settings.host, settings.port, "GATEWAY_PORT")
    management = bind(settings.management_host, settings.management_port, "GATEWAY_MANAGEMENT_PORT")
    opened = open_by(settings)
    with public, management, opened as state:
        let_in(state, settings.admin_key)
        uvloop.run(_run(settings, state, binary, (public, management), ready))


@dataclass(frozen=True, slots=True)
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
    risks: RiskAssessor
    what_if: WhatIf
    stop_file: StopFile
    delivery: Delivery
    buckets: TokenBuckets
    signing: Signing
    public_url: str
    management_url: str

    async def scan(self, server: Server) -> Scan:
        """Walk the server's tools and have them assessed. Raises `Unready`."""
        try:
            walked = await scan(self.upstreams, server)
            assessed = await self.risks.risks(walked.definitions)
        except ScanFailed as failed:
            raise Unready(str(failed)) from None
        except EngineFault as fault:
            _log.error("tools cannot be assessed", why=str(fault))
            raise Unready("The policy engine cannot assess the tools now; try again.") from None
        names = [str(definition.get("name")) for definition in walked.definitions]
        assessments = {
            name: Assessment(one.risk, one.reasons)
            for name, one in zip(names, assessed, strict=True)
        }
        return Scan(walked.definitions, assessments, server.revision, walked.complete)

    async def readiness(self) -> Readiness:
        opa = self.opa.status()
        checks = {
            "log": "the last write failed" if self.state.writer.failing else "ok",
            "opa": "ok" if opa.ready else opa.last_error or "not on the current bundle yet",
        }
        ready = all(check == "ok" for check in checks.values())
        # The last good policy decides: broken sources must be seen, and keep nobody from calling.
        failure = self.policy.status().last_failure
        broken = failure is not None and failure.resolved_at is None
        checks |= self.state.checkpoints.warnings() | self.upstreams.warnings()
        checks["policy"] = f"the last good one decides; {failure}" if broken else "ok"
        return Readiness(ready, checks)

    def cancel_calls(self, stop: Stop) -> int:
        """Cut the running calls that a stop covers."""

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

        return self.upstreams.cut(covers)


def build(
    settings: Settings, state: State, binary: Path, sockets: tuple[socket.socket, socket.socket]
) -> Gateway:
    """Put the parts together; nothing runs yet, and nothing is asked of the network."""
    now = state.clock.now
    token = management_token(settings.data_dir)
    bundles = BundleServer(token)
    opa = _opa(settings, state, binary, token, bundles)
    engine = Engine(Client(UnixAddress(str(opa.socket_path))), bundles, ready=lambda: opa.ready)
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
        admission=_admission(state, stop_file),
        upstreams=upstreams,
        inspection=Inspection(screening),
        settlement=state.settlement,
        refused_calls=refused_calls,
        relay=_relay(state, engine, bundles, upstreams, screening, refused_calls),
        in_band=_in_band(settings, state, sockets[0]),
    )
    dry_run = DryRun(state.directory, emergency_stop, tool_pins, policy, budget, refused_calls)
    risks = RiskAssessor(engine)
    return Gateway(
        settings=settings,
        state=state,
        bundles=bundles,
        opa=opa,
        policy=_activation(settings, state, binary, bundles, opa),
        upstreams=upstreams,
        tokens=tokens,
        pipeline=pipeline,
        dry_run=dry_run,
        what_if=WhatIf(state.registry, state.keyring, binary, settings.policy_dirs, bundles),
        control_plane=_control_plane(state, pipeline, dry_run, risks, bundles),
        entra=EntraTokens(KeySets(settings.private_upstreams, _addresses(sockets))),
        risks=risks,
        stop_file=stop_file,
        delivery=the_delivery(settings, state.registry, _addresses(sockets)),
        buckets=buckets,
        signing=Signing(state.writer, state.checkpoints),
        public_url=url_of(sockets[0], secure=settings.tls_cert is not None),
        management_url=url_of(sockets[1], secure=False),
    )


def _in_band(settings: Settings, state: State, sock: socket.socket) -> InBand:
    seals = Seals(state.keyring.handles)
    public_url = settings.public_url or url_of(sock, secure=settings.tls_cert is not None)
    own = OwnTasks(state.registry, seals, public_url)
    held = settings.approval_hold_seconds
    return InBand(Continuations(seals), own, state.registry, public_url, held)


def _admission(state: State, stop_file: StopFile) -> Admission:
    return Admission(
        state.writer, state.log, state.directory, state.ledger, state.grants, stop_file.read
    )


def _control_plane(
    state: State, pipeline: Pipeline, dry_run: DryRun, risks: RiskAssessor, bundles: BundleServer
) -> ControlPlane:
    reports = Reports(state.writer, state.log, state.ledger)
    return ControlPlane(pipeline, dry_run, risks, reports, state.registry, lambda: bundles.revision)


def _opa(settings: Settings, state: State, binary: Path, token: str, bundles: BundleServer) -> Opa:
    return Opa(
        binary=binary,
        config=asset("opa-config.yaml"),
        data_dir=settings.data_dir,
        token=token,
        key=state.keyring.bundle,
        bundles=bundles,
    )


def _upstreams(
    settings: Settings,
    state: State,
    sockets: tuple[socket.socket, socket.socket],
    handles: Handles,
) -> tuple[Tokens, Upstreams]:
    private = settings.private_upstreams
    listeners = _addresses(sockets)
    tokens = Tokens(state.registry, private_allowed=private, listeners=listeners)
    stdio = StdioServers(read_programs(settings))
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
    )


def _public(gateway: Gateway) -> ASGIApp:
    settings = gateway.settings
    proxy = Proxy(gateway.pipeline, trusted_proxies=settings.trusted_proxies)
    api = Starlette(routes=routes(_api_context(gateway)), exception_handlers=EXCEPTION_HANDLERS)
    dashboard = Dashboard(_dashboard_context(gateway))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        # Tool calls first and past the router, whose layers cost a tenth of a call.
        prefix, _, server_id = scope["path"].rpartition("/")
        if prefix == PROXY_PATH.rstrip("/"):
            scope["path_params"] = {"server_id": server_id}
            await proxy(scope, receive, send)
        elif is_ours(scope["path"]):
            await dashboard(scope, receive, send)
        else:
            await api(scope, receive, send)

    return Edge(application, hosts=settings.hosts, origins=settings.allowed_origins)


def _management(gateway: Gateway) -> ASGIApp:
    measured = metrics.Metrics(
        token=gateway.bundles.token,
        state=gateway.state,
        pipeline=gateway.pipeline,
        opa=gateway.opa,
        policy=gateway.policy,
        stop_file=gateway.stop_file,
    )
    application = Starlette(
        routes=[
            Route(BUNDLE_PATH, gateway.bundles),
            Route(metrics.PATH, measured),
            *management_routes(_api_context(gateway)),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    return Edge(application, hosts={"127.0.0.1", "::1", "localhost"}, origins=())


def _api_context(gateway: Gateway) -> ApiContext:
    return ApiContext(
        registry=gateway.state.registry,
        public_url=gateway.settings.public_url or gateway.public_url,
        scan=gateway.scan,
        redeem=gateway.tokens.redeem,
        decide=gateway.dry_run.decide,
        control_plane=gateway.control_plane,
        entra=gateway.entra,
        evaluate_profile=gateway.settings.evaluate_profile,
        readiness=gateway.readiness,
        cancel_calls=gateway.cancel_calls,
        policy_status=gateway.policy.status,
        policy_bundle=gateway.policy.archived,
        what_if=gateway.what_if.replay,
        checkpoint=gateway.signing.now,
        vacated=gateway.state.vacated,
        take=gateway.buckets.take,
    )


def _dashboard_context(gateway: Gateway) -> DashboardContext:
    public_url = gateway.settings.public_url or gateway.public_url
    return DashboardContext(
        api=_api_context(gateway),
        secure=public_url.startswith("https:"),
        trusted_proxies=gateway.settings.trusted_proxies,
        take=TokenBuckets(per_second=SIGN_INS_PER_SECOND, burst=SIGN_INS_AT_ONCE).take,
        opa=opa_binary.find(),
        identity=gateway.settings,
        private_allowed=gateway.settings.private_upstreams,
        ending=lambda: gateway.bundles.closed,
        coverage=gateway.policy.coverage,
        counters=gateway.pipeline.counters,
    )


def _addresses(sockets: Iterable[socket.socket]) -> frozenset[tuple[str, int]]:
    return frozenset(address_of(sock) for sock in sockets)


async def _run(
    settings: Settings,
    state: State,
    binary: Path,
    sockets: tuple[socket.socket, socket.socket],
    ready: Callable[[Ready], None] | None,
) -> None:
    gateway = build(settings, state, binary, sockets)
    public = Listener(_public(gateway), sockets[0], settings.tls_cert, settings.tls_key)
    management = Listener(_management(gateway), sockets[1])
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    serving = [
        asyncio.create_task(public.run_until_told()),
        asyncio.create_task(management.run_until_told()),
    ]
    house = Housekeeping(
        state,
        gateway.pipeline.refused_calls,
        gateway.stop_file,
        gateway.pipeline.breaker,
        gateway.cancel_calls,
    )
    tenure, runs = Tenure(state), TaskRuns(gateway.pipeline, state.registry)
    running = (house, gateway.signing, gateway.delivery, tenure, runs)
    always = [asyncio.create_task(one.run()) for one in running]
    try:
        await gateway.policy.begin()
        await gateway.opa.start(gateway.management_url)
        await _until_ready(gateway, told)
        _settle_memory()
        if ready is not None and not told.is_set():
            ready(Ready(gateway.public_url, gateway.management_url))
        always.append(asyncio.create_task(gateway.policy.run()))
        always.append(asyncio.create_task(anchors.run(settings, state, gateway.signing)))
        always.append(asyncio.create_task(sinks.run(settings, state.writer, state.reader)))
        stopping = asyncio.create_task(told.wait())
        await asyncio.wait([stopping, *always], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        gateway.bundles.close()
        public.should_exit = management.should_exit = True
        # Calls under way may end by themselves; a stream may never, so it is ended.
        await asyncio.wait(serving, timeout=DRAIN_SECONDS)
        gateway.pipeline.in_band.close()
        await gateway.upstreams.close()
        await asyncio.wait(serving)
        await _finish_calls(gateway)
        await gateway.signing.close()
        for task in always:
            task.cancel()
        await asyncio.wait(always)
        await gateway.opa.stop()
    for task in always:
        if not task.cancelled():
            task.result()


def _settle_memory() -> None:
    """What was made to start stays: looking through it again and again stood calls still for up to
    a tenth of a second, and the garbage of a call is counted references, not cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _until_ready(gateway: Gateway, told: asyncio.Event) -> None:
    """Wait for OPA, but not for ever: until it answers, calls are refused."""
    waiting = asyncio.create_task(gateway.opa.wait_ready(OPA_READY_SECONDS))
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, stopping):
        task.cancel()
    await asyncio.wait([waiting, stopping])
    if not gateway.opa.ready and not told.is_set():
        _log.error("OPA is not ready; calls are refused until it is", opa=gateway.opa.status())


async def _finish_calls(gateway: Gateway) -> None:
    """Every admitted call ends with an outcome, also when the gateway does."""
    if gateway.pipeline.running:
        await asyncio.wait(gateway.pipeline.running, timeout=GRACE_SECONDS)
    await gateway.pipeline.relay.close()
    await gateway.tokens.close()
    await gateway.pipeline.refused_calls.flush(everything=True)
