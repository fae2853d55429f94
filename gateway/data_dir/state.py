"""Opens a data directory: its lock, its keys, its database, and the one thread that writes."""

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import field
from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway import keyring
from gateway.assets import AssetMissing, asset
from gateway.budgets import Ledger
from gateway.clock import Clock
from gateway.cold.place import cold_store
from gateway.cold.reading import ColdStore, reading_also
from gateway.database_place import DATABASE, Place
from gateway.durable import write_file
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.keyring import Keyring
from gateway.mcp.arguments import compile_schema
from gateway.policy.templates import Catalogue
from gateway.registry.core import Registry
from gateway.registry.directory import Directory
from gateway.registry.erasure import Vacated
from gateway.registry.grants import Grants
from gateway.settings import Settings
from gateway.settlement import Settlement
from gateway.store import migrations
from gateway.store.database import (
    is_postgresql,
    lock_data_dir,
    reading_engine,
    take_turn,
    using,
    writing_engine,
)
from gateway.store.postgresql import DatabaseAway
from gateway.store.writer import Participant, Writer, WriterStopped
from gateway.trace import slots
from gateway.trace.checkpoint import Checkpoints
from gateway.trace.log import Log

INSTALLATION = "installation"
KEYS = "keys"
CHECKPOINTS = "checkpoints.ndjson"
CHECKPOINTS_OFF = "off"

_log = structlog.get_logger(__name__)


class NotInitialised(Exception):
    """There is no gateway in this directory yet."""


@frozen
class State:
    """What a gateway keeps, open for this process alone."""

    data_dir: Path
    place: Place
    keyring: Keyring = field(repr=False)
    clock: Clock
    writer: Writer
    reader: Engine
    log: Log
    checkpoints: Checkpoints
    directory: Directory
    ledger: Ledger
    grants: Grants
    settlement: Settlement
    registry: Registry
    vacated: Vacated
    cold: ColdStore | None


def open_by(settings: Settings, *, create: bool = False) -> AbstractContextManager[State]:
    """As `open_state`, where the settings say."""
    return open_state(
        settings.data_dir,
        create=create,
        checkpoint_file=settings.checkpoint_file,
        place=settings.database,
        cold=cold_store(settings.cold_store, settings.cold_endpoint),
    )


@contextmanager
def open_state(
    data_dir: Path,
    *,
    create: bool = False,
    checkpoint_file: Path | None = None,
    place: Place | None = None,
    cold: ColdStore | None = None,
) -> Iterator[State]:
    """Hold the directory while the block runs; migrate its database, hold its log against what was
    signed, and settle what a crash left open.

    The database is at ``place``, without it SQLite's in the directory. With ``create`` the
    directory, keys and database are made where they are missing. Checkpoints go to
    ``checkpoint_file``, to a file in the directory without one, nowhere if it is named ``off``.
    What is in cold storage is read from ``cold``.
    Raises `NotInitialised`, `gateway.store.database.DatabaseLocked`, `DataDirUnusable`,
    `gateway.store.postgresql.DatabaseAway`, `gateway.keyring.KeyringFault`.
    """
    place = place or data_dir / DATABASE
    if create:
        with using(data_dir):
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not is_made(place):
        raise NotInitialised(f"{told(place, data_dir)} holds no gateway; run `gateway init` first")
    lock = lock_data_dir(data_dir)
    try:
        if create and not is_made(place):
            # Never new keys for old data: they would open nothing, and sign another log's name.
            with using(data_dir):
                keyring.create(data_dir / KEYS)
        outside = checkpoint_file or data_dir / CHECKPOINTS
        for name in keyring.staged(data_dir / KEYS):
            _log.warning(
                "a key's rotation was cut short", key=name, end=f"gateway keys rotate {name}"
            )
        state = _open(
            data_dir,
            place,
            keyring.load(data_dir / KEYS),
            None if str(checkpoint_file) == CHECKPOINTS_OFF else outside,
            cold,
        )
        try:
            yield state
        finally:
            _give_back(state)
            state.writer.close()
            state.reader.dispose()
    finally:
        os.close(lock)


def migrate(data_dir: Path, place: Place) -> tuple[str | None, str]:
    """Bring the database to this version's schema; return the schema that it had, and has.

    SQLite's must not be in use; gateways may go on with PostgreSQL's meanwhile. Raises what
    `open_state` does, and `gateway.store.migrations.SchemaTooNew`.
    """
    if not is_made(place):
        raise NotInitialised(f"{told(place, data_dir)} holds no gateway; run `gateway init` first")
    lock = lock_data_dir(data_dir) if isinstance(place, Path) else None
    try:
        reading = reading_engine(place)
        try:
            with reading.connect() as connection:
                before = migrations.revision(connection)
        finally:
            reading.dispose()
        _migrated(place).dispose()
        return before, migrations.newest()
    finally:
        if lock is not None:
            os.close(lock)


def is_made(place: Place) -> bool:
    """Whether there is a database of a gateway."""
    if isinstance(place, Path):
        return place.exists()
    engine = reading_engine(place)
    try:
        with engine.connect() as connection:
            return migrations.revision(connection) is not None
    except OperationalError as fault:
        why = str(fault.orig).strip()
        raise DatabaseAway(f"cannot reach the database of GATEWAY_DATABASE_URL: {why}") from None
    finally:
        engine.dispose()


def told(place: Place, data_dir: Path) -> str:
    """What an error names, without the database's password."""
    return str(data_dir) if isinstance(place, Path) else "the database of GATEWAY_DATABASE_URL"


def _try_files(database: Path) -> None:
    """Raises OSError with the one that cannot be used: SQLite would not say which it is."""
    os.close(os.open(database, os.O_RDWR | os.O_CREAT, 0o600))  # not readable by others, ever
    for beside in (f"{database}-wal", f"{database}-shm"):
        if os.path.exists(beside):
            os.close(os.open(beside, os.O_RDWR))


def _open(
    data_dir: Path, place: Place, keys: Keyring, outside: Path | None, cold: ColdStore | None
) -> State:
    if isinstance(place, Path):
        with using(data_dir):
            _try_files(place)
    engine = _migrated(place)
    clock = Clock()
    log = Log(keys, clock)
    checkpoints = Checkpoints(log, keys, outside)
    catalogue = _templates()
    directory = Directory(
        keys,
        compile_schema,
        lambda: {name: template.version for name, template in catalogue.templates().items()},
    )
    directory.watch(engine)
    ledger = Ledger()
    grants = Grants(keys)
    with engine.connect() as connection, connection.begin():
        log.load(
            connection,
            f"gateway-{secrets.token_hex(4)}/trace/main",
            _slot(connection, data_dir, clock),
        )
        directory.load(connection)
        ledger.load(connection, clock.now())
    vacated = Vacated()

    def reload(connection: Connection) -> None:
        log.load(connection, log.origin, log.slot)
        directory.load(connection)
        ledger.load(connection, clock.now())

    participants: list[Participant] = [vacated, log, directory, ledger]
    writer = Writer(engine, participants, reload=reload, set_clock=clock.set)
    settlement = Settlement(writer, log, ledger, grants)
    writer.start()
    writer.change_now(checkpoints.open)
    recovered = writer.change_now(settlement.recover)
    if recovered:
        _log.warning("calls of unknown outcome", calls=recovered)
    reader = reading_also(reading_engine(place), cold)
    return State(
        data_dir=data_dir,
        place=place,
        keyring=keys,
        clock=clock,
        writer=writer,
        reader=reader,
        log=log,
        checkpoints=checkpoints,
        directory=directory,
        ledger=ledger,
        grants=grants,
        settlement=settlement,
        registry=Registry(writer, reader, log, directory, keys, clock, catalogue),
        vacated=vacated,
        cold=cold,
    )


def _slot(connection: Connection, data_dir: Path, clock: Clock) -> slots.Slot:
    now = take_turn(connection, alone=True)
    if now is not None:
        clock.set(now)
    # The directory is locked: whoever held the slot before is gone, whatever its lease says.
    sole = not is_postgresql(connection)
    return slots.take(connection, _installation(data_dir), clock.now(), sole=sole)


def _migrated(place: Place) -> Engine:
    engine = writing_engine(place)
    try:
        migrations.upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _installation(data_dir: Path) -> str:
    """The name by which a directory's gateway has its log slot back when it starts again."""
    path = data_dir / INSTALLATION
    if not path.exists():
        write_file(path, new_id("gw").encode())
    return path.read_text()


def _give_back(state: State) -> None:
    slot = state.log.slot
    if not slot.sole:
        with suppress(SQLAlchemyError, WriterStopped):
            state.writer.change_now(lambda connection: slots.give(connection, slot))


def _templates() -> Catalogue:
    try:
        catalogue = Catalogue(asset("connector_templates"))
    except AssetMissing:
        return Catalogue(None)
    catalogue.templates()  # now, while nobody waits; later only files that changed are read
    return catalogue
