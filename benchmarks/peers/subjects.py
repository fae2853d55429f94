"""How each peer is started and set up, so that it forwards calls to the one upstream."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.calls import free_port, gateway, process, started
from benchmarks.peers.install import HERE, installed, version
from benchmarks.upstream import TOOL

NAME = str(TOOL["name"])
READY_SECONDS = 180


class NotStarted(Exception):
    """Why a peer cannot be measured."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls go."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tool: str = NAME
    pid: int | None = None
    """Of the peer's process, where it is one of ours."""


Start = Callable[[Path, Path, str], AbstractContextManager[Endpoint]]


@dataclass(frozen=True, slots=True)
class Peer:
    """``start`` is given an empty folder, that of what is installed, and the upstream's URL."""

    name: str
    start: Start
    does: str
    """What it does for each call, as it is set up here."""


@contextmanager
def upstream() -> Iterator[str]:
    port = free_port()
    command = (sys.executable, "-m", "benchmarks.peers.upstream", "--port", str(port))
    with process(*command) as running:
        url = f"http://127.0.0.1:{port}/mcp"
        _wait_for(url, running)
        yield url


@contextmanager
def ours(folder: Path, shelf: Path, url: str) -> Iterator[Endpoint]:
    with gateway(folder / "data", url, rules=20) as subject:
        headers = {"Authorization": f"Bearer {subject.key}"}
        yield Endpoint(subject.url, headers, pid=subject.pid)


@contextmanager
def direct(folder: Path, shelf: Path, url: str) -> Iterator[Endpoint]:
    yield Endpoint(url)


@contextmanager
def fastmcp(folder: Path, shelf: Path, url: str) -> Iterator[Endpoint]:
    python, port = installed("fastmcp", shelf), free_port()
    command = (str(python), str(HERE / "fastmcp_proxy.py"), url, str(port))
    with started(command, {}, folder / "says") as running:
        _wait_for(f"http://127.0.0.1:{port}/mcp", running)
        yield Endpoint(f"http://127.0.0.1:{port}/mcp", pid=running.pid)


@contextmanager
def contextforge(folder: Path, shelf: Path, url: str) -> Iterator[Endpoint]:
    python, port = installed("contextforge", shelf), free_port()
    secret = secrets.token_urlsafe(32)
    environment = {
        "JWT_SECRET_KEY": secret,
        "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(32),
        "DATABASE_URL": f"sqlite:///{folder}/mcp.db",
        "CACHE_TYPE": "memory",
        "PLATFORM_ADMIN_EMAIL": "admin@example.com",
        "PLATFORM_ADMIN_PASSWORD": secrets.token_urlsafe(16) + "-A1!",
        "RATE_LIMITING_ENABLED": "false",
        "TOOL_RATE_LIMIT": "100000000",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "LOG_LEVEL": "ERROR",
    }
    program = str(python.parent / "mcpgateway")
    command = (program, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error")
    with started(command, environment, folder / "says") as running:
        base = f"http://127.0.0.1:{port}"
        _wait_for(f"{base}/health", running)
        token = _token(python, {**os.environ, **environment}, folder)
        headers = {"Authorization": f"Bearer {token}"}
        server, tool = _registered(base, headers, url)
        yield Endpoint(f"{base}/servers/{server}/mcp/", headers, tool, running.pid)


def _token(python: Path, environment: Mapping[str, str], folder: Path) -> str:
    """ContextForge's own program makes it, for its first administrator."""
    script = "mcpgateway.utils.create_jwt_token"
    who = ("--username", "admin@example.com", "--exp", "10080")
    made = subprocess.run(
        [str(python), "-m", script, *who, "--secret", environment["JWT_SECRET_KEY"]],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    if made.returncode:
        raise NotStarted(f"{script} makes no token: {made.stderr[-200:]}")
    return made.stdout.split()[-1]


def _registered(base: str, headers: Mapping[str, str], url: str) -> tuple[str, str]:
    """The upstream as one of ContextForge's gateways, its tool in a virtual server of its own."""

    def sent(method: str, path: str, body: object = None) -> Any:
        answer = httpx.request(
            method, base + path, json=body, headers=dict(headers), timeout=60, trust_env=False
        )
        if answer.is_error:
            raise NotStarted(f"{path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()

    sent("POST", "/gateways", {"name": "bench", "url": url, "transport": "STREAMABLEHTTP"})
    (tool,) = sent("GET", "/tools")
    new = {"name": "bench", "description": "bench", "associated_tools": [tool["id"]]}
    server = sent("POST", "/servers", {"server": new})
    return str(server["id"]), str(tool["name"])


def elsewhere(endpoint: Endpoint) -> Start:
    """What runs already."""

    @contextmanager
    def running(folder: Path, shelf: Path, url: str) -> Iterator[Endpoint]:
        yield endpoint

    return running


def _wait_for(url: str, running: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise NotStarted(f"it ended with status {running.returncode}")
        try:
            httpx.get(url, timeout=5, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise NotStarted(f"nothing answers after {READY_SECONDS} seconds")


PEERS = (
    Peer("direct", direct, "no gateway at all: the client asks the upstream"),
    Peer(
        "policy-gateway",
        ours,
        "checks the key, stop, pin and argument types; decides in OPA, with 21 rules; holds a"
        " budget; has the decision and its encrypted input on disk (synchronous=FULL, Merkle log)"
        " before the call leaves, and the outcome queued before the answer does",
    ),
    Peer(
        version("fastmcp"),
        fastmcp,
        "create_proxy over streamable HTTP, stateless, JSON answers; no authentication, no policy,"
        " no record; opens an MCP session with the upstream for each call",
    ),
    Peer(
        version("contextforge"),
        contextforge,
        "one worker on SQLite with its cache in memory; checks a JWT and the caller's roles, finds"
        " the tool in its registry, counts metrics in a buffer; rate limits off, plug-ins off, no"
        " record on disk before the call",
    ),
)
