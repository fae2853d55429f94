"""A real OPA with its bundle server, for the tests of policy."""

import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn

from gateway import assets
from gateway.http1.client import Client
from gateway.policy import watch
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import Bundle, build_bundle
from gateway.policy.engine import Engine
from gateway.policy.opa import OpaOptions
from gateway.policy.opa_binary import OpaMissing, find
from gateway.policy.opa_process import OpaProcess
from gateway.policy.sidecar import environment_of, start_command
from gateway.policy.sources import Source

KEY = b"k" * 32
TOKEN = "the-management-token"

MODES = """
package gateway

import rego.v2

default _mode := "allow"

_mode := input.arguments.mode

_allow := {"action": "ALLOW", "policy_ids": ["t.one"], "reasons": ["why"], "obligations": []}

decision := _allow if _mode == "allow"

decision := object.union(_allow, {"action": "DENY"}) if _mode == "deny"

decision := "ALLOW" if _mode == "no object"

decision := object.union(_allow, {"action": "PERMIT"}) if _mode == "unknown action"

decision := object.union(_allow, {"action": 1}) if _mode == "number as action"

decision := object.union(_allow, {"reasons": [1]}) if _mode == "number as reason"

decision := object.union(_allow, {"obligations": ["x"]}) if _mode == "text as obligation"

decision := object.remove(_allow, ["policy_ids"]) if _mode == "no ids"

decision := _allow if _mode == "conflict"

decision := object.union(_allow, {"reasons": ["another"]}) if _mode == "conflict"

decision := _allow if {
	_mode == "builtin error"
	to_number(input.arguments.mode) > 1
}

decision := _allow if {
	_mode == "slow"
	count([1 | some i in numbers.range(1, 4000); some j in numbers.range(1, 4000); i == j]) > 0
}

decision := object.union(_allow, {"reasons": [json.marshal(input)]}) if _mode == "echo"
"""


def the_opa() -> Path:
    """The pinned OPA; without it the test is skipped, or fails when CI is set."""
    try:
        return find()
    except OpaMissing as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def bundle_of(folder: Path, rego: str, *, key: bytes = KEY) -> Bundle:
    """A bundle of one module, made as the real one is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decision.rego").write_text(rego)
    return build_bundle([Source("gateway", folder, ("gateway",))], opa=the_opa(), key=key)


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(bundles: BundleServer) -> AsyncIterator[str]:
    """The bundle server on a port of its own; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            bundles, lifespan="off", log_level="warning", timeout_graceful_shutdown=1
        )
        server = _QuietServer(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            bundles.close()
            server.should_exit = True


@dataclass
class World:
    """An OPA that runs, and what belongs to it."""

    bundles: BundleServer
    opa: OpaProcess
    engine: Engine
    client: Client
    url: str

    @property
    def pid(self) -> int:
        assert self.opa.pid is not None
        return self.opa.pid


@asynccontextmanager
async def running(
    data_dir: Path, bundle: Bundle, options: OpaOptions | None = None, seconds: float = 0.25
) -> AsyncIterator[World]:
    """OPA with one bundle; a decision has `seconds`."""
    bundles = BundleServer(TOKEN)
    bundles.offer(bundle)
    opa = OpaProcess(
        binary=the_opa(),
        config=assets.asset("opa-config.yaml"),
        data_dir=data_dir,
        token=TOKEN,
        key=KEY,
        bundles=bundles,
        options=options,
    )
    async with served(bundles) as url:
        client = Client(opa.address)
        engine = Engine(client, bundles, ready=lambda: opa.ready, seconds=seconds)
        await opa.start(url)
        try:
            await opa.wait_ready(10)
            yield World(bundles, opa, engine, client, url)
        finally:
            client.close()
            await opa.stop()


@contextlib.contextmanager
def a_sidecar(
    folder: Path, url: str, address: str | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """OPA as `gateway opa sidecar` says that it is started, maybe at another address."""
    _, *words = start_command(folder)
    if address is not None:
        words[words.index("--addr") + 1] = address
    environment = {"PATH": os.environ["PATH"], **environment_of(folder, url)}
    process = subprocess.Popen([the_opa(), *words], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def deafen(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The system tells of no change in a folder from now on; it is looked at after ``seconds``."""

    async def deaf(*_: Path, **__: Any) -> AsyncGenerator[Any]:
        while True:
            await anyio.sleep(0.01)
            yield set()

    monkeypatch.setattr(watch, "awatch", deaf)
    monkeypatch.setattr(watch, "UNTOLD_SECONDS", seconds)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")
