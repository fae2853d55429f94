"""Where a test's database is: SQLite's file in its folder, or a database of PostgreSQL's.

``TESTS_DATABASE=postgresql`` is the one switch by which the whole suite runs on PostgreSQL. Tests
that ask for the fixture `place` run on both kinds whatever it says.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.database_place import DATABASE, Place

SWITCH = "TESTS_DATABASE"
VARIABLE = "GATEWAY_DATABASE_URL"
_KINDS = ("sqlite", "postgresql")

_opened: dict[Path, Place] = {}
_scopes = [ExitStack()]
"""Of the whole run, of a module, of a test: the innermost is the last."""


def kind() -> str:
    said = os.environ.get(SWITCH) or _KINDS[0]
    if said not in _KINDS:
        raise ValueError(f"{SWITCH} must be one of {', '.join(_KINDS)}")
    return said


def shared() -> bool:
    """Whether the suite runs on PostgreSQL."""
    return kind() == "postgresql"


def place_of(folder: Path) -> Place:
    """Of the gateway with this data directory: the same for as long as the test runs.

    On PostgreSQL the settings of this process say it too from then on.
    """
    if not shared():
        return folder / DATABASE
    folder = folder.resolve()
    if folder not in _opened:
        from tests.postgresql import a_database  # noqa: PLC0415 - it needs the driver

        _opened[folder] = _scopes[-1].enter_context(a_database())
    os.environ[VARIABLE] = str(_opened[folder])
    return _opened[folder]


def variables_of(folder: Path) -> dict[str, str]:
    """What a process of its own must be told of that place."""
    return {VARIABLE: str(place_of(folder))} if shared() else {}


@contextmanager
def closing() -> Iterator[None]:
    """Give up at the end all places that were first asked for meanwhile."""
    before, known = os.environ.get(VARIABLE), set(_opened)
    _scopes.append(ExitStack())
    try:
        yield
    finally:
        for folder in _opened.keys() - known:
            del _opened[folder]
        _scopes.pop().close()
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def stored(folder: Path) -> bytes:
    """All bytes that the database holds: SQLite's files, or what PostgreSQL's rows are made of."""
    if not shared():
        found = b"".join(path.read_bytes() for path in sorted(folder.glob(f"{DATABASE}*")))
        assert found
        return found
    import psycopg  # noqa: PLC0415 - a driver that SQLite does not need

    with psycopg.connect(str(place_of(folder))) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found = b""
        for (table,) in tables.fetchall():
            with connection.cursor().copy(f'COPY "{table}" TO STDOUT (FORMAT binary)') as rows:
                found += b"".join(bytes(part) for part in rows)
    assert found
    return found


def copy(source: Path, target: Path) -> None:
    """Put a copy of one directory's database in place of the other's, while nobody has it open."""
    if not shared():
        for path in target.glob(f"{DATABASE}*"):
            path.unlink()
        for path in source.glob(f"{DATABASE}*"):
            shutil.copy(path, target / path.name)
        return
    from tests.postgresql import server  # noqa: PLC0415 - it needs the driver

    said = os.environ.get(VARIABLE)
    urls = [str(place_of(folder)) for folder in (source, target)]
    programs = server().programs
    dump = subprocess.run(
        [programs / "pg_dump", "--format=custom", urls[0]], capture_output=True, check=True
    )
    subprocess.run(
        [programs / "pg_restore", "--clean", "--if-exists", "--no-owner", "--dbname", urls[1]],
        input=dump.stdout,
        capture_output=True,
        check=True,
    )
    if said is not None:
        os.environ[VARIABLE] = said


def sql(statement: str) -> str:
    """A statement for `exec_driver_sql` in SQLite's words, in PostgreSQL's where that is asked.

    Told apart are ``zeroblob(N)``, ``x'00'`` and ``?``.
    """
    if not shared():
        return statement
    zeros = re.sub(r"zeroblob\((\d+)\)", r"decode(repeat('00', \1), 'hex')", statement)
    return re.sub(r"x('[0-9a-f]*')", r"decode(\1, 'hex')", zeros).replace("?", "%s")


def named(folder: Path) -> tuple[Path, ...]:
    """The words by which `gateway verify db` is told of the database: on PostgreSQL none."""
    return () if shared() else (folder,)
