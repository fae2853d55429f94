"""A consistent copy of a data directory, made while a gateway runs on it.

The database is copied inside one read transaction, which keeps nobody from writing; all else is
made whole and never changed. Nothing here writes to the directory, and no checkpoint of its
journal is made from a second process.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

from gateway.data_dir.state import CHECKPOINTS, KEYS, NotInitialised
from gateway.database_place import DATABASE
from gateway.durable import write_file
from gateway.frozen import frozen
from gateway.keyring import NAMES

LOG_KEY = "log"
MANIFEST = "backup.json"


class BackupRefused(Exception):
    """The copy cannot be made, or is not whole; the message says why."""


@frozen
class Copied:
    """What a backup holds; kept in it as ``backup.json``."""

    records: int
    """Of the log in use."""
    origin: str
    schema: str
    bundles: int
    log_key: bool


def back_up(data_dir: Path, to: Path, *, log_key: bool = False) -> Copied:
    """Copy everything into the new folder ``to``; it is on disk when this returns. Blocks.

    The log's key stays out unless it is asked for: with a copy of it and of the database somebody
    could go on with the log elsewhere, under its name. Raises `BackupRefused`, `NotInitialised`.
    """
    if not (data_dir / DATABASE).exists():
        raise NotInitialised(f"{data_dir} holds no gateway; run `gateway init` first")
    with _made_aside(to) as folder:
        # Before the database: a file that is ahead of it would have the copy taken for damaged.
        if (data_dir / CHECKPOINTS).exists():
            write_file(folder / CHECKPOINTS, (data_dir / CHECKPOINTS).read_bytes())
        _copy_database(data_dir / DATABASE, folder / DATABASE)
        # Keys and bundles after the database: what a record in it names is there then.
        _copy_keys(data_dir / KEYS, folder / KEYS, log_key=log_key)
        bundles = _copy_bundles(data_dir / "bundles", folder / "bundles")
        copied = _looked_over(folder / DATABASE, bundles=bundles, log_key=log_key)
        write_file(folder / MANIFEST, json.dumps(asdict(copied), indent=2).encode() + b"\n")
    return copied


@contextmanager
def _made_aside(to: Path) -> Iterator[Path]:
    """The folder appears under its name only when it is whole."""
    aside = to.with_name(f".{to.name}.partial")
    if to.exists():
        raise BackupRefused(f"{to} is there already; name a new folder")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a backup that was cut short
        aside.mkdir(mode=0o700, parents=True)
        yield aside
        aside.rename(to)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise BackupRefused(f"the backup was not made: {error}") from None


def _copy_database(source: Path, to: Path) -> None:
    os.close(os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(to)) as copy,
    ):
        live.execute("PRAGMA busy_timeout=5000")
        live.backup(copy, pages=-1)
    with to.open("rb") as file:
        os.fsync(file.fileno())


def _copy_keys(source: Path, to: Path, *, log_key: bool) -> None:
    to.mkdir(mode=0o700)
    for name in NAMES:
        if name != LOG_KEY or log_key:
            # With the one that follows, while a key is being rotated: either may be in use.
            for path in (source / f"{name}.key", source / f"{name}.next.key"):
                if path.exists() or path.stem == name:
                    write_file(to / path.name, path.read_bytes())


def _copy_bundles(source: Path, to: Path) -> int:
    """Every policy bundle that was ever active: records name them. Returns how many."""
    to.mkdir(mode=0o700)
    count = 0
    for path in sorted(source.glob("*")) if source.is_dir() else ():
        if path.is_file() and path.suffix != ".new":
            write_file(to / path.name, path.read_bytes())
            count += 1
    return count


def _looked_over(database: Path, *, bundles: int, log_key: bool) -> Copied:
    """Raises `BackupRefused` when the copy is not sound."""
    with closing(sqlite3.connect(database)) as copy:
        told = copy.execute("PRAGMA integrity_check").fetchone()[0]
        if told != "ok":
            raise BackupRefused(f"the copy of the database is damaged: {told}")
        number, origin = copy.execute(
            "SELECT log, origin FROM logs ORDER BY log DESC LIMIT 1"
        ).fetchone()
        # Not their count: the first may be in cold storage.
        size = "SELECT coalesce(max(idx) + 1, 0) FROM trace WHERE log = ?"
        count = copy.execute(size, [number]).fetchone()[0]
        schema = copy.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    return Copied(count, origin, schema, bundles, log_key)
