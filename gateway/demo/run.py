"""Runs the demonstration: a gateway in this process, set up over its API once it answers."""

import os
import secrets
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from gateway.app import Ready, serve
from gateway.data_dir.first_start import initialise
from gateway.demo import state as states
from gateway.demo.crm_process import CrmDidNotStart, CrmProcess
from gateway.demo.instructions import ADMIN, APPROVER, Demo
from gateway.demo.prepare import PROJECT_NAME, ApiRefused, prepare
from gateway.registry.users import NewUser
from gateway.settings import LOOPBACK_NETWORKS, Settings
from gateway.telemetry.logs import log_to_stderr


class DemoFailed(Exception):
    """The demonstration could not be set up; everything it started has ended."""


def run(data_dir: Path, port: int | None, crm: CrmProcess, ready: Callable[[Demo], None]) -> None:
    """Serve until SIGINT or SIGTERM; call `ready` once, when every call can be tried.

    Raises `DemoFailed`, `SettingsFault` and what `gateway.app.serve` raises.
    """
    settings = Settings.read(
        data_dir=data_dir, port=port, management_port=0, private_upstreams=LOOPBACK_NETWORKS
    )
    log_to_stderr(settings.log_level)
    state = states.read(data_dir)
    if not state.admin_key:
        admin, approver = secrets.token_urlsafe(15), secrets.token_urlsafe(15)
        people = (
            NewUser(name=ADMIN, role="admin", password=admin),
            NewUser(name=APPROVER, role="approver", password=approver),
        )
        made = initialise(settings, project=PROJECT_NAME, owner=ADMIN, people=people)
        states.changed(
            data_dir,
            state,
            admin_key=made.admin_key,
            admin_password=admin,
            approver_password=approver,
        )
    setup = _Setup(data_dir, crm, ready)
    serve(settings, ready=setup.start)
    setup.finish()


class _Setup:
    """Prepares in a thread of its own, because the gateway must answer meanwhile."""

    def __init__(self, data_dir: Path, crm: CrmProcess, ready: Callable[[Demo], None]) -> None:
        self._data_dir = data_dir
        self._crm = crm
        self._ready = ready
        self._failure: Exception | None = None

    def start(self, gateway: Ready) -> None:
        threading.Thread(target=self._run, args=(gateway.base_url,), daemon=True).start()

    def finish(self) -> None:
        if self._failure is not None:
            raise DemoFailed(f"the demonstration could not be set up: {self._failure}")

    def _run(self, base_url: str) -> None:
        try:
            self._ready(prepare(base_url, self._data_dir, self._crm.port()))
        except (ApiRefused, CrmDidNotStart, states.StateUnreadable, OSError) as failure:
            self._failure = failure
            os.kill(os.getpid(), signal.SIGTERM)
