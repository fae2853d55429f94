"""Runs everything: what `gateway.assembly` built, its listeners, and its end."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.anchors import setup as anchors
from gateway.api.context import ApiContext
from gateway.api.errors import EXCEPTION_HANDLERS
from gateway.api.routes import management_routes, routes
from gateway.assembly import Gateway, build
from gateway.background.following import Following
from gateway.background.housekeeping import Housekeeping
from gateway.background.takeover import Tenure
from gateway.dashboard.context import DashboardContext
from gateway.dashboard.entry import Dashboard, is_ours
from gateway.data_dir.first_start import let_in
from gateway.data_dir.state import State, open_by
from gateway.edge import PROXY_PATH, Edge, TokenBuckets
from gateway.frozen import frozen
from gateway.in_band.task_runs import TaskRuns
from gateway.listeners import GRACE_SECONDS, Listener, bind, listen
from gateway.mcp.proxy import Proxy
from gateway.policy import opa_binary
from gateway.policy.bundle_server import PATH as BUNDLE_PATH
from gateway.settings import Settings, SettingsFault
from gateway.sinks import follow as sinks
from gateway.telemetry import metrics
from gateway.telemetry.tracing import Tracing, configured

SIGN_INS_PER_SECOND = 0.2
SIGN_INS_AT_ONCE = 20
"""From one address, whoever it says it is."""
OPA_READY_SECONDS = 15.0
DRAIN_SECONDS = 3.0
SPANS_SECONDS = 2.0
"""For the last spans, when the gateway ends."""

_log = structlog.get_logger(__name__)


@frozen
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
    listen(management, "GATEWAY_MANAGEMENT_PORT")
    opened = open_by(settings)
    with public, management, _spans() as tracing, opened as state:
        let_in(state, settings.admin_key)
        uvloop.run(_run(settings, state, tracing, binary, (public, management), ready))


@contextmanager
def _spans() -> Iterator[Tracing | None]:
    """What calls give their spans to, where that is set up. Raises `SettingsFault`."""
    ratio = configured()
    if ratio is None:
        yield None
        return
    try:
        from gateway.telemetry.otlp import Otlp  # noqa: PLC0415 - imports OpenTelemetry
    except ImportError as error:
        fault = f"{error.name} is missing: install policy-gateway with its extra `otlp`"
        raise SettingsFault([f"OTEL_EXPORTER_OTLP_ENDPOINT: {fault}"]) from None
    otlp = Otlp()
    try:
        yield Tracing(ratio, otlp.export)
    finally:
        otlp.close(SPANS_SECONDS)


def _public(gateway: Gateway, opa: Path) -> ASGIApp:
    settings = gateway.settings
    proxy = Proxy(gateway.pipeline, trusted_proxies=settings.trusted_proxies)
    api = Starlette(routes=routes(_api_context(gateway)), exception_handlers=EXCEPTION_HANDLERS)
    dashboard = Dashboard(_dashboard_context(gateway, opa))

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
        archive=gateway.archive,
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
        scan=gateway.scans.scan,
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


def _dashboard_context(gateway: Gateway, opa: Path) -> DashboardContext:
    public_url = gateway.settings.public_url or gateway.public_url
    return DashboardContext(
        api=_api_context(gateway),
        secure=public_url.startswith("https:"),
        trusted_proxies=gateway.settings.trusted_proxies,
        take=TokenBuckets(per_second=SIGN_INS_PER_SECOND, burst=SIGN_INS_AT_ONCE).take,
        opa=opa,
        identity=gateway.settings,
        private_allowed=gateway.settings.private_upstreams,
        ending=lambda: gateway.bundles.closed,
        coverage=gateway.policy.coverage,
        counters=gateway.pipeline.counters,
        scanning=gateway.scans.running.get,
    )


async def _run(
    settings: Settings,
    state: State,
    tracing: Tracing | None,
    binary: Path,
    sockets: tuple[socket.socket, socket.socket],
    ready: Callable[[Ready], None] | None,
) -> None:
    gateway = build(settings, state, tracing, binary, sockets)
    public = Listener(_public(gateway, binary), sockets[0], settings.tls_cert, settings.tls_key)
    management = Listener(_management(gateway), sockets[1])
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    serving = [asyncio.create_task(management.run_until_told())]
    house = Housekeeping(
        state,
        gateway.pipeline.refused_calls,
        gateway.stop_file,
        gateway.pipeline.breaker,
        gateway.cancel_calls,
    )
    runs = (TaskRuns(gateway.pipeline, state.registry), Following(state, gateway.cancel_calls))
    running = (house, gateway.signing, gateway.delivery, Tenure(state), *runs, gateway.archive)
    always = [asyncio.create_task(one.run()) for one in running if one is not None]
    try:
        await gateway.policy.begin()
        await gateway.opa.start(gateway.management_url)
        await _until_ready(gateway, told)
        _settle_memory()
        # Not before: what shares calls out among several gateways gives them to who listens.
        listen(sockets[0], "GATEWAY_PORT")
        serving.append(asyncio.create_task(public.run_until_told()))
        if ready is not None and not told.is_set():
            ready(Ready(gateway.public_url, gateway.management_url))
        always.append(asyncio.create_task(gateway.policy.run()))
        always.append(asyncio.create_task(anchors.run(settings, state, gateway.signing)))
        always.append(
            asyncio.create_task(sinks.run(settings, state.writer, state.reader, state.clock.now))
        )
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
    await gateway.state.settlement.finish()
