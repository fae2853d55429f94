"""A PostgreSQL server of the tests' own: Debian's programs, a folder of its own, a Unix socket.

One for each test process, started by the first test that needs it, and a database for each test.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg

from gateway.database_place import PostgresUrl
from tests.conftest import missing

_PROGRAMS = "/usr/lib/postgresql/*/bin"
_SUPERUSER = "gateway"


class Server:
    """Runs until it is closed. Takes its settings from `initdb` but for what makes it slow."""

    def __init__(self) -> None:
        self.programs = _programs()
        self._free: list[str] = []
        # Short: a socket's path has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        # The server refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
        self._run("initdb", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        self.start()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "--pgdata", str(self._data), *arguments]
        if program == "initdb":
            command += ["--username", _SUPERUSER]
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, user=self._user, cwd="/", check=False
            )
            assert done.returncode == 0, Path(log.name).read_text()[-2000:]

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c max_connections=200 -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--timeout=60", "--options", options)

    def stop(self, mode: str = "immediate") -> None:
        """``immediate`` is how a crash looks to clients; what was committed survives it."""
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
        Path(f"{self.folder}.log").unlink()

    def text_url(self, database: str) -> str:
        return f"postgresql://{_SUPERUSER}@/{database}?host={self.folder}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database's URL. Emptied, not dropped, afterwards: that takes a tenth of it."""
        if not self._free:
            name = f"t{uuid.uuid4().hex}"
            self._run_in("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
            self._free.append(name)
        name = self._free.pop()
        yield self.text_url(name)
        leave = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        self._run_in(name, leave, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        self._free.append(name)

    def _run_in(self, database: str, *statements: str) -> None:
        with psycopg.connect(self.text_url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


class DurableServer(Server):
    """As an operator runs it: what it commits is on disk. For benchmarks."""

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses= -c max_connections=200"
        self._run("pg_ctl", "start", "--wait", "--timeout=60", "--options", options)


def _programs() -> Path:
    found = sorted(Path("/").glob(f"{_PROGRAMS[1:]}/initdb"), key=lambda path: path.parts)
    if not found:
        missing(f"no {_PROGRAMS}: apt-get install postgresql")
    return found[-1].parent


@cache
def server() -> Server:
    started = Server()
    atexit.register(started.close)
    return started


@contextmanager
def a_database() -> Iterator[PostgresUrl]:
    with server().database() as text:
        yield PostgresUrl(text)
