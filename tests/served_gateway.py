"""The gateway for tests that run it as a process of its own: without templates, and with faults
at hand.

``python -m tests.served_gateway DATA_DIR [--head-seconds N] [--clock FILE] [--slow-commits N]
[--names FILE] [--read-only FILE] [--port N] [--management-port N] [--drain-seconds N]
[--migration FILE] [--deaf]``
prints its two addresses as one line of JSON once it answers; settings come from the environment.
"""

import argparse
import asyncio
import importlib
import json
import shutil
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from sqlalchemy import Connection, Engine, event

import tests.without_templates  # noqa: F401 - what it does, it does when imported
from gateway import app
from gateway.mcp import upstream
from gateway.settings import LOOPBACK_NETWORKS, Settings
from gateway.store import migrations
from gateway.telemetry.logs import log_to_stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--head-seconds", type=float)
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--slow-commits", type=float)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--read-only", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--management-port", type=int, default=0)
    parser.add_argument("--drain-seconds", type=float)
    parser.add_argument("--migration", type=Path)
    parser.add_argument("--deaf", action="store_true")
    given = parser.parse_args()
    if given.head_seconds is not None:
        limits = partial(upstream.Limits, head_seconds=given.head_seconds, idle_seconds=30)
        setattr(upstream, "Limits", limits)  # noqa: B010 - a class is no variable to mypy
    if given.clock is not None:
        _set_clock_by(given.clock)
    if given.slow_commits is not None:
        event.listen(Engine, "commit", lambda _: time.sleep(given.slow_commits))
    if given.names is not None:
        _resolve_by(given.names)
    if given.read_only is not None:
        event.listen(Engine, "begin", partial(_hold_read_only, given.read_only))
    if given.drain_seconds is not None:
        setattr(app, "DRAIN_SECONDS", given.drain_seconds)  # noqa: B010
    if given.migration is not None:
        _be_newer_by(given.migration)
    if given.deaf:
        importlib.import_module("tests.deaf")
    settings = Settings.read(
        data_dir=given.data_dir,
        port=given.port,
        management_port=given.management_port,
        private_upstreams=LOOPBACK_NETWORKS,
    )
    log_to_stderr(settings.log_level)
    app.serve(settings, ready=_tell)


def _set_clock_by(file: Path) -> None:
    """The file says by how many seconds the system's clock is wrong, and may change."""
    right = time.time

    def wrong() -> float:
        return right() + float(file.read_text())

    time.time = wrong
    from gateway.clock import Clock  # noqa: PLC0415 - its default is the clock to replace

    Clock.__init__.__defaults__ = (wrong,)


def _resolve_by(file: Path) -> None:
    """The file's JSON object has the address of each name; null: none, and empty: no answer."""

    def address_of(host: Any) -> Any:
        return json.loads(file.read_text()).get(host, host)

    class Loop(uvloop.Loop):
        async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
            address = address_of(host)
            if address is None:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            if not address:
                await asyncio.get_running_loop().create_future()
            return await super().getaddrinfo(address, port, **hints)

    setattr(uvloop, "run", partial(uvloop.run, loop_factory=Loop))  # noqa: B010


def _be_newer_by(file: Path) -> None:
    """The next version's gateway: it has one more script that changes the database."""
    folder = file.parent / "migrations"
    if not folder.exists():
        shutil.copytree(migrations.FOLDER, folder)
        shutil.copy(file, folder / "versions")
    migrations.FOLDER = folder


def _hold_read_only(file: Path, connection: Connection) -> None:
    """While the file is there, SQLite is told by its own means that it may not write."""
    connection.exec_driver_sql(f"PRAGMA query_only = {int(file.exists())}")


def _tell(ready: app.Ready) -> None:
    print(json.dumps([ready.base_url, ready.management_url]), flush=True)


if __name__ == "__main__":
    main()
