"""OPA itself: the binary, one bundle built from `rego/`, and one server that runs it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import needs

ROOT = Path(__file__).resolve().parents[2]
REGO = ROOT / "rego"

# A template and an organisation policy that find what the test tells them to find.
TOLD = {
    "connectors/told/told.rego": """package connectors.told.told

import rego.v2

findings contains finding if some finding in input.server.params.findings

hidden contains member if some member in input.server.params.hidden
""",
    "policies/all/hiding/hiding.rego": """package policies.all.hiding

import rego.v2

_told := object.get(input.server.params, "hide", [])

hidden contains member if {
	some member in _told
	not member.hide
}

hidden contains "x" if {
	some member in _told
	member.hide == "if an argument is there"
	input.arguments.hide
}

hidden contains "x" if {
	some member in _told
	member.hide == "if no argument is there"
	not input.arguments.hide
}
""",
    # What a built bundle says of itself; here the test says it.
    "bundle/bundle.rego": """package bundle

import rego.v2

hides if input.server.params.hides
""",
    "policies/all/told/told.rego": """package policies.all.told

import rego.v2

findings contains finding if some finding in input.arguments.findings
""",
    "policies/tool/conflict/conflict.rego": """package policies.tool.conflict.broken

import rego.v2

verdict := "ALLOW" if input.tool.name == "conflict"

verdict := "DENY" if input.arguments == {}

findings contains {"action": verdict, "policy_id": "broken", "reason": "x"}
""",
    "policies/tool/limit/limit.rego": """package policies.tool.limit.limit

import rego.v2

findings contains {"action": "DENY", "policy_id": "limit", "reason": "no number"} if {
	not is_number(input.arguments.limit)
}

findings contains {"action": "DENY", "policy_id": "limit", "reason": "too many"} if {
	input.arguments.limit > 1000
}

findings contains {"action": "DENY", "policy_id": "amount", "reason": "too much"} if {
	to_number(input.arguments.amount) > 1000
}
""",
}


@pytest.fixture(scope="session")
def opa() -> str:
    """The `opa` of GATEWAY_OPA_BIN, else the one on PATH."""
    named = os.environ.get("GATEWAY_OPA_BIN")
    if named and shutil.which(named):
        return named
    return needs("opa", "`gateway opa install` puts it in place, or set GATEWAY_OPA_BIN")


@dataclass(frozen=True, slots=True)
class OpaServer:
    """A running OPA; answers as the gateway would get them."""

    client: httpx.Client

    def ask(self, entry: str, document: object, **options: str) -> httpx.Response:
        """POST `{"input": document}` to `data.<entry>`, strictly."""
        return self.client.post(
            f"/v1/data/{entry}",
            params={"strict-builtin-errors": "true", **options},
            json={"input": document},
        )

    def decide(self, document: object) -> dict[str, Any]:
        """The decision, which must be there."""
        response = self.ask("gateway/decision", document)
        assert response.status_code == 200, response.text
        result = response.json()["result"]
        assert isinstance(result, dict)
        return result


@pytest.fixture(scope="session")
def bundle(opa: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rego/` and the told policies, built into one bundle without the tests."""
    told = tmp_path_factory.mktemp("told")
    for name, text in TOLD.items():
        (told / name).parent.mkdir(parents=True, exist_ok=True)
        (told / name).write_text(text)
    source = tmp_path_factory.mktemp("source") / "bundle"
    shutil.copytree(REGO, source)
    shutil.copytree(told, source, dirs_exist_ok=True)
    (source / ".manifest").write_text('{"roots": [""], "rego_version": 2}')
    built = tmp_path_factory.mktemp("built") / "gateway.tar.gz"
    subprocess.run(
        [opa, "build", "-b", source, "--ignore", "*_test.rego", "-o", built],
        check=True,
        capture_output=True,
        text=True,
    )
    return built


@pytest.fixture(scope="session")
def server(opa: str, bundle: Path) -> Iterator[OpaServer]:
    """One OPA on a Unix socket for all tests of this folder."""
    # A socket's path may have 107 bytes, less than pytest's folders sometimes need.
    with tempfile.TemporaryDirectory(prefix="opa") as folder:
        path = Path(folder) / "s"
        command = [opa, "run", "--server", "--skip-version-check", "--log-level", "error"]
        process = subprocess.Popen([*command, "--addr", f"unix://{path}", "--bundle", bundle])
        try:
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(transport=transport, base_url="http://opa", timeout=10) as client:
                _until_healthy(client, process, path)
                yield OpaServer(client)
        finally:
            process.kill()
            process.wait(10)


def _until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        # Connecting too early leaves httpx with a socket that it does not close.
        if _accepts(path) and client.get("/health").status_code == 200:
            return
        time.sleep(0.02)
    pytest.fail("OPA did not start")


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
