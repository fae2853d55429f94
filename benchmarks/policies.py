"""How soon an edited policy decides, what many policies cost, and how fast decisions are replayed.

    python -m benchmarks.policies [--edits 9] [--replayed 10000] [--json]

The gateway runs from a copy of this checkout, so that its own library can be edited too. "Changed
tests" is an edit of one of fifty policies: its tests and those of its importers run. "All tests"
is an edit of `rego/lib`, after which every test runs. The many-policies part asks one OPA the same
questions with 20 and with 2,000 policies of which seven match, in turn.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import httpx
import orjson

from benchmarks.calls import process
from gateway.policy import opa_binary
from gateway.policy.bundles import build_bundle
from gateway.policy.opa import OpaOptions
from gateway.policy.replay import Input, replay
from gateway.policy.sources import the_sources

ROOT = Path(__file__).parents[1]
COPIED = ("gateway", "rego", "connector_templates", "opa-config.yaml", "pyproject.toml")
POLICY = """# METADATA
# title: Policy {n}
# description: One of many.
# schemas:
#   - input: schema.input
package policies.{route}.p{n}

import rego.v2

# METADATA
# title: Rows
# description: Edited {edit} times.
findings contains {{"action": "LOG_ONLY", "policy_id": "p{n}", "reason": "many rows"}} if {{
	is_number(input.arguments.limit)
	input.arguments.limit > {n}
}}
"""
TEST = """package policies_test.p{n}

import rego.v2

import data.policies.{route}.p{n}

test_rows if {{
	some finding in p{n}.findings with input as {{"arguments": {{"limit": 5000}}}}
	finding.action == "LOG_ONLY"
}}
"""
QUESTION = {
    "version": 1,
    "project": {"id": "prj_0", "slug": "p", "default_action": "ALLOW"},
    "agent": None,
    "server": {
        **{"id": "srv_0", "slug": "s", "origin": "http://localhost", "template": None},
        **{"params": {}, "overrides": []},
    },
    "tool": {
        **{"name": "query", "risk": "LOW", "risk_computed": "LOW", "pin": "ACCEPTED"},
        **{"annotations": {}, "definition_sha256": "0" * 64},
    },
    "rules": [],
    "arguments": {"limit": 5000},
    "call": {
        **{"source": "mcp", "method": "tools/call", "phase": "call", "era": "modern"},
        **{"session": None, "task": None, "meta": {}, "input_responses": None, "is_retry": False},
    },
    "context": {"time": "2026-01-31T12:00:00.000000Z", "client_ip": "127.0.0.1"},
}


@dataclass(frozen=True, slots=True)
class Reload:
    """Seconds from the save of a file to the status that names its bundle as active: medians."""

    changed_tests: float
    all_tests: float


@dataclass(frozen=True, slots=True)
class Many:
    """Microseconds of a decision (p50), and OPA's resident memory in MiB: at the end, and the most
    that it was since its start.
    """

    few: float
    many: float
    memory: float
    peak: float


def write(folder: Path, route: str, n: int, edit: int = 0) -> Path:
    """One policy below ``all`` matches every call, one below ``tool/<name>`` that tool's."""
    path = folder / route.replace(".", "/") / f"p{n}"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"p{n}_test.rego").write_text(TEST.format(n=n, route=route))
    policy = path / f"p{n}.rego"
    policy.write_text(POLICY.format(n=n, route=route, edit=edit))
    return policy


@contextmanager
def served(folder: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A gateway from a copy of the checkout; yields its API and the copy."""
    copy, policies = folder / "copy", folder / "policies"
    for name in COPIED:
        source = ROOT / name
        take = shutil.copytree if source.is_dir() else shutil.copy
        copy.mkdir(exist_ok=True)
        take(source, copy / name)
    for n in range(50):
        write(policies, "all" if n < 7 else f"tool.t{n}", n)
    environment = {
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "GATEWAY_POLICY_DIRS": str(policies),
        "GATEWAY_PORT": str(_free_port()),
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_LOG_LEVEL": "error",
        "GATEWAY_OPA_BIN": str(opa_binary.find()),
        "PYTHONPATH": str(copy),
    }
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "init", "--json"],
        check=True,
        capture_output=True,
        cwd=copy,
        env={**os.environ, **environment},
    )
    admin = json.loads(made.stdout)["admin_key"]
    base = f"http://127.0.0.1:{environment['GATEWAY_PORT']}"
    with (
        process(sys.executable, "-P", "-m", "gateway", "serve", **environment),
        httpx.Client(
            base_url=f"{base}/api/v1",
            headers={"Authorization": f"Bearer {admin}"},
            timeout=60,
            trust_env=False,
        ) as api,
    ):
        _until_other(api, "")
        yield api, copy


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _until_other(api: httpx.Client, digest: str) -> tuple[str, float]:
    """The digest that decides instead, and since when in seconds since 1970: the gateway says so
    itself, because who asks often takes the time that he measures.
    """
    due = time.monotonic() + 120
    while time.monotonic() < due:
        try:
            status = api.get("/policy/status").json()
        except httpx.TransportError:
            status = {"active": None, "last_failure": None}
        active, failure = status["active"], status["last_failure"]
        if failure is not None and failure["resolved_at"] is None:
            raise RuntimeError(f"the policy does not become active: {failure}")
        if active is not None and active["digest"] != digest:
            return str(active["digest"]), datetime.fromisoformat(active["since"]).timestamp()
        time.sleep(0.05)
    raise RuntimeError("no other policy became active")


def reloads(edits: int, folder: Path) -> Reload:
    with served(folder) as (api, copy):
        library = copy / "rego" / "lib" / "paths" / "paths.rego"
        if not library.exists():
            library = next(p for p in (copy / "rego/lib").rglob("*.rego") if "_test" not in p.name)
        text = library.read_text()
        digest, _ = _until_other(api, "")
        changed: list[float] = []
        everything: list[float] = []
        for edit in range(1, edits + 1):
            started = time.time()
            write(folder / "policies", "all", 3, edit)
            digest, since = _until_other(api, digest)
            changed.append(since - started)
            started = time.time()
            library.write_text(f"{text}\n# {edit}\n")
            digest, since = _until_other(api, digest)
            everything.append(since - started)
    return Reload(statistics.median(changed), statistics.median(everything))


def bundle_of(folder: Path, policies: int) -> bytes:
    """A bundle with so many policies of the organisation's, of which seven match the question."""
    for n in range(policies):
        write(folder, "all" if n < 7 else f"tool.t{n}", n)
    return build_bundle(the_sources([folder]), opa=opa_binary.find(), key=bytes(32)).archive


@contextmanager
def opa_with(archive: bytes, folder: Path) -> Iterator[tuple[httpx.Client, int]]:
    """An OPA that serves the bundle; yields a client for it and its process id."""
    folder.mkdir()
    (folder / "bundle.tar.gz").write_bytes(archive)
    command = [str(opa_binary.find()), "run", "--server", "--log-level", "error"]
    command += ["--skip-version-check", "--skip-verify", "--bundle", "bundle.tar.gz"]
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as aside:
        opa = subprocess.Popen(
            [*command, "--addr", f"unix://{aside}/s"],
            cwd=folder,
            stderr=subprocess.DEVNULL,
            env=OpaOptions().collector,
        )
        transport = httpx.HTTPTransport(uds=f"{aside}/s")
        try:
            with httpx.Client(base_url="http://opa", transport=transport, timeout=60) as client:
                due = time.monotonic() + 60
                while time.monotonic() < due:
                    try:
                        if client.get("/health").status_code == 200:
                            break
                    except httpx.TransportError:
                        time.sleep(0.05)
                yield client, opa.pid
        finally:
            opa.terminate()
            opa.wait()


def many_policies(questions: int, folder: Path) -> Many:
    few, many = bundle_of(folder / "few", 20), bundle_of(folder / "many", 2000)
    question = orjson.dumps({"input": QUESTION})
    with (
        opa_with(few, folder / "opa-few") as (a, _),
        opa_with(many, folder / "opa-many") as (b, pid),
    ):
        took: tuple[list[float], list[float]] = ([], [])
        for turn in range(questions + 50):
            for client, times in zip((a, b), took, strict=True):
                started = time.perf_counter()
                answer = client.post("/v1/data/gateway/decision", content=question).json()
                if turn >= 50:  # the first ones warm up
                    times.append(time.perf_counter() - started)
                if len(answer["result"]["policy_ids"]) != 7:
                    raise RuntimeError(f"seven policies match, OPA says {answer}")
        memory, peak = _mebibytes(pid, "VmRSS"), _mebibytes(pid, "VmHWM")
    return Many(statistics.median(took[0]) * 1e6, statistics.median(took[1]) * 1e6, memory, peak)


def _mebibytes(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def replayed(inputs: int, folder: Path) -> float:
    """Seconds for so many recorded inputs through two bundles, OPA's start included."""
    before, after = bundle_of(folder / "before", 50), bundle_of(folder / "after", 51)
    recorded = [
        Input(f"trc_{n}", "query", orjson.dumps({"input": {**QUESTION, "arguments": {"limit": n}}}))
        for n in range(inputs)
    ]
    started = time.monotonic()
    result = replay(before, after, recorded, opa_binary.find())
    took = time.monotonic() - started
    if result.inputs != inputs or result.errors:
        raise RuntimeError(f"{result.inputs} inputs, errors {result.errors[:3]}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--edits", type=int, default=9)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--replayed", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as aside:
        folder = Path(aside)
        many = many_policies(given.questions, folder)
        seconds = replayed(given.replayed, folder)
        reload = reloads(given.edits, folder)
    if given.json:
        print(json.dumps({**asdict(reload), **asdict(many), "replay_seconds": seconds}))
        return
    print(f"edit to active, 50 policies, changed tests   {reload.changed_tests * 1000:8.0f} ms")
    print(f"edit to active, 50 policies, all tests       {reload.all_tests * 1000:8.0f} ms")
    print(f"decision p50, 20 policies loaded             {many.few:8.0f} us")
    ratio = many.many / many.few
    print(f"decision p50, 2,000 policies loaded          {many.many:8.0f} us, {ratio:.2f} of that")
    print(f"OPA's memory with 2,000 policies             {many.memory:8.0f} MiB")
    print(f"  the most that it was since its start       {many.peak:8.0f} MiB")
    print(f"replay of {given.replayed:,} recorded inputs            {seconds:8.1f} s")


if __name__ == "__main__":
    main()
