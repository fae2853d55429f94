"""The clients that people have, each in a process of its own, at the demonstration's server.

What is refused arrives as an error that a program can read, and the session lives on.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.demo.instructions import Demo
from tests.conftest import needs
from tests.end_to_end.demonstration import need_opa, running
from tests.installed import installed, run

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent / "clients"
PATIENCE = 120
ALLOWED = ("query_records", {"object_name": "Account", "limit": 1})
DENIED = ("bulk_export", {"object_name": "Contact"})
WAITING = ("delete_record", {"record_id": "OPP-0001"})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    need_opa()
    with running(tmp_path_factory.mktemp("gateway") / "demo") as it:
        yield it.demo


def _sources(language: str) -> list[Path]:
    return [path for path in (HERE / language).iterdir() if path.is_file()]


def _modules() -> Path:
    def install(target: Path) -> None:
        npm = needs("npm", "it comes with Node.js")
        for source in _sources("typescript"):
            shutil.copy(source, target)
        run([npm, "ci", "--ignore-scripts"], target)

    return installed("clients", _sources("typescript"), install)


def _node(home: Path) -> str:
    """Node.js 22, which the Inspector needs: a package brings it for Linux."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    node = home / "node_modules" / f"node-{sys.platform}-{machine}" / "bin" / "node"
    return str(node) if node.exists() else needs("node", "Node.js 22.19, from https://nodejs.org")


def _first_python() -> Path:
    """The folder with mcp 1.x, which cannot be installed beside 2.x."""

    def install(target: Path) -> None:
        lock = str(HERE / "python" / "requirements.lock")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, "--require-hashes", "--target", str(target), "--requirement", lock], target)

    return installed("mcp-1", [HERE / "python" / "requirements.lock"], install)


def _asked(command: list[str], **environment: str) -> Any:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**kept, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _session(client: str, demo: Demo) -> Any:
    calls = json.dumps([ALLOWED, DENIED, WAITING, ALLOWED])
    words = [demo.proxy_url, demo.project_key, calls]
    if client == "mcp 1":
        script = str(HERE / "python" / "session.py")
        return _asked([sys.executable, "-S", script, *words], PYTHONPATH=str(_first_python()))
    home = _modules()
    return _asked([_node(home), str(home / "session.mjs"), client, *words])


@pytest.mark.parametrize(
    ("client", "version"),
    [
        ("mcp 1", "2025-11-25"),
        ("@modelcontextprotocol/sdk", "2025-11-25"),
        ("@modelcontextprotocol/client", "2026-07-28"),
    ],
)
def test_a_client_lists_calls_is_refused_and_lives_on(
    demo: Demo, client: str, version: str
) -> None:
    told = _session(client, demo)
    assert told["version"] == version
    assert "query_records" in told["tools"]
    assert "bulk_export" not in told["tools"]
    first, denied, waiting, last = told["answers"]
    assert (first, last) == ({"isError": False}, {"isError": False})
    _is_denied(denied)
    _awaits_approval(waiting)


def _inspected(demo: Demo, home: Path, *words: str) -> tuple[int, Any]:
    """What the Inspector's command line ends with and says, on one stream or the other."""
    modules = _modules()
    main = modules / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    header = ("--header", f"Authorization: Bearer {demo.project_key}")
    done = subprocess.run(
        [
            _node(modules),
            str(main),
            "--cli",
            demo.proxy_url,
            "--transport",
            "http",
            *header,
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        check=False,
    )
    return done.returncode, json.loads(done.stdout or done.stderr)


def test_the_inspector_lists_calls_and_says_why_a_call_is_refused(
    demo: Demo, tmp_path: Path
) -> None:
    def call(tool: str, **arguments: str) -> tuple[int, Any]:
        given = [word for pair in arguments.items() for word in ("--tool-arg", "=".join(pair))]
        words = ("--method", "tools/call", "--tool-name", tool, *given)
        return _inspected(demo, tmp_path, *words)

    status, listed = _inspected(demo, tmp_path, "--method", "tools/list")
    assert status == 0
    assert "query_records" in {tool["name"] for tool in listed["tools"]}
    status, answer = call("query_records", object_name="Account")
    assert (status, answer["isError"]) == (0, False)
    status, waiting = call("delete_record", record_id="OPP-0002")
    assert (status, waiting["error"]["message"]) == (1, "A person must approve this call.")
    with _shown(demo):
        status, denied = call("bulk_export", object_name="Contact")
    assert (status, denied["error"]["message"]) == (1, "Denied by policy.")


@contextmanager
def _shown(demo: Demo) -> Iterator[None]:
    """What is denied is listed too: the Inspector calls nothing that it has not seen."""
    url = f"{demo.base_url}/api/v1/projects/current"
    headers = {"Authorization": f"Bearer {demo.admin_key}"}
    with httpx.Client(headers=headers, timeout=PATIENCE, trust_env=False) as admin:
        admin.patch(url, json={"hide_denied_tools": False}).raise_for_status()
        try:
            yield
        finally:
            admin.patch(url, json={"hide_denied_tools": True}).raise_for_status()


def _is_denied(error: Any) -> None:
    assert error["code"] == -31003
    assert "Denied by policy" in error["message"]
    assert error["data"]["reason_code"] == "policy_denied"
    assert error["data"]["trace_id"].startswith("trc_")


def _awaits_approval(error: Any) -> None:
    assert error["code"] == -31004
    assert "must approve" in error["message"]
    assert error["data"]["reason_code"] == "approval_required"
    assert error["data"]["approval_id"]
