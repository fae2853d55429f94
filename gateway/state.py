"""Opens a data directory: its lock, its keys, its database, and the one thread that writes."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway import keyring
from gateway.assets import AssetMissing, asset
from gateway.budgets import Ledger
from gateway.clock import Clock
from gateway.ids import new_id
from gateway.keyring import Keyring
from gateway.mcp.arguments import compile_schema
from gateway.policy.templates import Catalogue
from gateway.registry.core import Registry
from gateway.registry.directory import Directory
from gateway.registry.erasure import Vacated
from gateway.registry.grants import Grants
from gateway.settlement import Settlement
from gateway.store import migrations
from gateway.store.database import lock_data_dir, reading_engine, writing_engine
from gateway.store.writer import Writer, WriterStopped
from gateway.trace import slots
from gateway.trace.checkpoint import Checkpoints
from gateway.trace.log import Log

DATABASE = "gateway.db"
KEYS = "keys"
CHECKPOINTS = "checkpoints.ndjson"
CHECKPOINTS_OFF = "off"

_log = structlog.get_logger(__name__)


class NotInitialised(Exception):
    """There is no gateway in this directory yet."""


@dataclass(frozen=True, slots=True)
class State:
    """What a gateway keeps, open for this process alone."""

    data_dir: Path
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


@contextmanager
def open_state(
    data_dir: Path, *, create: bool = False, checkpoint_file: Path | None = None
) -> Iterator[State]:
    """Hold the directory while the block runs; migrate it, hold its log against what was signed,
    and settle what a crash left open.

    With ``create`` the directory, keys and database are made where they are missing. Checkpoints
    go to ``checkpoint_file``, to a file in the directory without one, nowhere if it is named
    ``off``. Raises `NotInitialised`, `gateway.store.database.DatabaseLocked`,
    `gateway.keyring.KeyringFault`.
    """
    if create:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not (data_dir / DATABASE).exists():
        raise NotInitialised(f"{data_dir} holds no gateway; run `gateway init` first")
    lock = lock_data_dir(data_dir)
    try:
        if create and not (data_dir / DATABASE).exists():
            # Never new keys for old data: they would open nothing, and sign another log's name.
            keyring.create(data_dir / KEYS)
        outside = checkpoint_file or data_dir / CHECKPOINTS
        state = _open(
            data_dir,
            keyring.load(data_dir / KEYS),
            None if str(checkpoint_file) == CHECKPOINTS_OFF else outside,
        )
        try:
            yield state
        finally:
            _give_back(state)
            state.writer.close()
            state.reader.dispose()
    finally:
        os.close(lock)


def _open(data_dir: Path, keys: Keyring, outside: Path | None) -> State:
    path = data_dir / DATABASE
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # not readable by others, ever
    engine = writing_engine(path)
    migrations.upgrade(engine)
    clock = Clock()
    log = Log(keys, clock)
    checkpoints = Checkpoints(log, keys, outside)
    catalogue = _templates()
    directory = Directory(
        keys,
        compile_schema,
        lambda: {name: template.version for name, template in catalogue.templates().items()},
    )
    ledger = Ledger()
    grants = Grants(keys)
    with engine.connect() as connection, connection.begin():
        # The directory is locked: whoever held the slot before is gone, whatever its lease says.
        slot = slots.take(connection, new_id("gw"), clock.now(), sole=True)
        log.load(connection, f"gateway-{secrets.token_hex(4)}/trace/main", slot)
        directory.load(connection)
        ledger.load(connection, clock.now())
    vacated = Vacated()
    writer = Writer(engine, [vacated, log, directory, ledger])
    settlement = Settlement(writer, log, ledger, grants)
    writer.start()
    writer.change_now(checkpoints.open)
    recovered = writer.change_now(settlement.recover)
    if recovered:
        _log.warning("calls of unknown outcome", calls=recovered)
    reader = reading_engine(path)
    return State(
        data_dir=data_dir,
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
    )


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
