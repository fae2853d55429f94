"""From the settings to anchors at work. Without any the log is local, and says so.

web3 and the time-stamp library take a second to load and are loaded here, in a thread, only when
they are set up, and only once the gateway answers calls.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.anchors import rows
from gateway.anchors.files import Files
from gateway.anchors.place import AnchorUnusable, Opened, Place, outgoing
from gateway.anchors.values import Condition, Head
from gateway.anchors.worker import Deadlines, Worker
from gateway.clock import Clock
from gateway.egress.guard import EgressRefused
from gateway.ids import new_id
from gateway.settings import Settings, SettingsFault
from gateway.store.writer import Writer, WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.trace.checkpoint import Signing
from gateway.trace.log import LOG_ITSELF, Log
from gateway.trace.record import Draft, Field

RESTART_SECONDS = 60.0

Opener = Callable[[Place], Awaitable[Opened]]

_log = structlog.get_logger(__name__)


def check(settings: Settings) -> None:
    """What no single setting shows, before anything starts. Raises `SettingsFault`."""
    faults = []
    if settings.flare_rpc_url is not None and settings.flare_contract is None:
        faults.append("GATEWAY_FLARE_CONTRACT: make one with `gateway anchor deploy` and set it")
    for name in ("flare_rpc_url", "flare_second_rpc_url", "anchor_tsa_url"):
        url = getattr(settings, name)
        try:
            if url is not None:
                outgoing(settings, url)
        except EgressRefused as refused:
            faults.append(f"GATEWAY_{name.upper()}: {refused}")
    if faults:
        raise SettingsFault(faults)


def openers(settings: Settings) -> dict[str, Opener]:
    """What is set up, by kind."""
    found: dict[str, Opener] = {}
    if settings.flare_rpc_url is not None:
        found["flare"] = _open_flare
    if settings.anchor_tsa_url is not None:
        found["rfc3161"] = _open_timestamps
    if settings.anchor_path is not None:
        found["file"] = _open_file
    return found


class State(Protocol):
    """What anchors need of `gateway.data_dir.state.State`."""

    @property
    def writer(self) -> Writer: ...
    @property
    def reader(self) -> Engine: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def log(self) -> Log: ...


async def run(settings: Settings, state: State, signing: Signing) -> None:
    """Anchor until cancelled, each backend by itself: the fault of one ends no other."""
    place = Place(settings, state.writer, state.reader, state.clock, state.log, signing)
    found = openers(settings)
    with contextlib.suppress(SQLAlchemyError, WriterStopped):
        await place.writer.change(rows.disable_all)
    if not found:
        _log.info("the log is local: nothing outside vouches for it")
    async with asyncio.TaskGroup() as group:
        group.create_task(_until_cancelled())
        for kind, opener in found.items():
            group.create_task(_keep_at_it(place, kind, opener))


async def _until_cancelled() -> None:
    await asyncio.get_running_loop().create_future()


async def _keep_at_it(place: Place, kind: str, opener: Opener) -> None:
    """Start the backend anew when it fails as nobody foresaw; calls go on all the while."""
    while True:
        task = asyncio.create_task(_run(place, opener))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        fault = task.exception()
        foreseen = isinstance(fault, AnchorUnusable)
        assert fault is not None
        why = str(fault) if foreseen else fault_text(fault)
        _log.error("an anchor cannot go on", anchor=kind, why=why)
        with contextlib.suppress(SQLAlchemyError, WriterStopped):
            await _tell_failed(place, kind, str(fault))
        await asyncio.sleep(RESTART_SECONDS)


async def _tell_failed(place: Place, kind: str, why: str) -> None:
    now = place.clock.now()

    def note(connection: Connection) -> None:
        rows.register(connection, kind, {}, now)
        rows.condition(connection, kind, now, Condition.REFUSED, why)

    await place.writer.change(note)


async def _run(place: Place, opener: Opener) -> None:
    opened = await opener(place)
    await place.writer.change(lambda connection: _register(place, connection, opened))
    settings = place.settings

    async def sign() -> Head:
        signed = await place.signing.before_anchor()
        head = signed.checkpoint
        return Head(signed.log, head.origin, head.size, head.root, signed.note)

    deadlines = Deadlines(settings.anchor_urgent_seconds, settings.anchor_routine_seconds)
    seal = place.signing.seal
    await Worker(opened.backend, opened.outbox, place.log, sign, deadlines, seal).run()


def _register(place: Place, connection: Connection, opened: Opened) -> None:
    """Record in the log who anchors it from now on, before that key anchors anything.

    The log's own key signs it: so a writer that was lost is followed by another, or by the
    successor that was named in time.
    """
    previous = rows.last_writer(connection)
    before = rows.register(connection, opened.name, opened.identity, place.clock.now())
    if opened.identity != before:
        told: dict[str, Field] = {
            name: value if isinstance(value, int) else str(value)
            for name, value in opened.identity.items()
            if value is not None
        }
        if previous not in (None, told.get("writer")):
            told["previous"] = previous
        fields: dict[str, Field] = {"event": "anchor.changed", "backend": opened.name, **told}
        place.log.append(connection, [Draft("key_change", new_id("evt"), LOG_ITSELF, fields)])


# --- the backends ---


async def _open_flare(place: Place) -> Opened:
    return await (await asyncio.to_thread(_flare_opener))(place)


def _flare_opener() -> Opener:
    try:
        from gateway.anchors.flare_setup import open_flare  # noqa: PLC0415 - imports web3
    except ImportError as error:
        raise AnchorUnusable(
            f"{error.name} is missing: install policy-gateway with its extra `flare`"
        ) from None
    return open_flare


async def _open_timestamps(place: Place) -> Opened:
    return await (await asyncio.to_thread(_timestamps_opener))(place)


def _timestamps_opener() -> Opener:
    try:
        from gateway.anchors.timestamps import open_timestamps  # noqa: PLC0415 - as above
    except ImportError as error:
        raise AnchorUnusable(
            f"{error.name} is missing: install policy-gateway with its extra `timestamps`"
        ) from None
    return open_timestamps


async def _open_file(place: Place) -> Opened:
    path = place.settings.anchor_path
    if path is None:
        raise AnchorUnusable("set GATEWAY_ANCHOR_PATH")
    files = Files(path, place.clock, place.signing.public)
    return Opened("file", {"path": str(path)}, files, place.outbox("file"))
