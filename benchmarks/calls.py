"""How many tool calls a second, and how late: direct, relayed, decided, with everything on.

    python -m benchmarks.calls [--rounds 5] [--seconds 2] [--json]

One run, one machine, wrk as the client and nginx as the MCP server, all on the same cores. The
subjects take turns in rounds and the median round counts, so that a machine that is slower now
and then is slower for all of them: read the ratios, not the numbers.

"everything on" is rules, policy, budget, stop, pin, schema types, the encrypted input, and the
decision and outcome records, on a database with synchronous=FULL.
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.upstream import CALL, HEADERS, TOOL, nginx

CONNECTIONS = (1, 32)
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds and calls per second."""

    what: str
    connections: int
    calls: float
    p50: float
    p99: float
    failed: int


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wrk(url: str, headers: dict[str, str], connections: int, seconds: int, what: str) -> Row:
    lines = ["wrk.method = 'POST'", f"wrk.body = [==[{CALL.decode()}]==]"]
    lines += [f"wrk.headers['{name}'] = '{value}'" for name, value in headers.items()]
    return run_wrk(url, "\n".join(lines) + "\n", connections, seconds, what)


# A refusal is HTTP 200 too: only an answer without an error counts.
_COUNTING = """
local bad = 0
function response(status, headers, body)
  if status ~= 200 or string.find(body, '"error"', 1, true) then
    bad = bad + 1; wrk.thread:set('bad', bad) end
end
local threads = {}
function setup(thread) table.insert(threads, thread) end
function done(summary, latency, requests)
  local n = 0; for _, t in ipairs(threads) do n = n + (t:get('bad') or 0) end
  print('Failed: ' .. n) end
"""


def run_wrk(url: str, script: str, connections: int, seconds: int, what: str) -> Row:
    """``script`` is Lua that says what is sent."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script + _COUNTING)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        command += ["--timeout", "20s", "-s"]
        out = subprocess.run(
            [*command, file.name, url], check=True, capture_output=True, text=True
        ).stdout
    return parsed(out, connections, what)


def parsed(out: str, connections: int, what: str) -> Row:
    """What wrk printed. Raises RuntimeError when it is something else."""
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    failed = re.search(r"Failed: (\d+)", out)
    if found is None or failed is None:
        raise RuntimeError(out)
    errors = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", out))
    return Row(
        what,
        connections,
        float(found[1]),
        _percentile(out, "50"),
        _percentile(out, "99"),
        int(failed[1]) + errors,
    )


def _percentile(out: str, percent: str) -> float:
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", out)
    if found is None:
        raise RuntimeError(out)
    return float(found[1]) * _UNITS[found[2]]


@contextmanager
def process(*command: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    with started(command, environment) as running:
        yield running


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], says: Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Runs until the end. With ``says`` all that it prints goes into that file."""
    with ExitStack() as stack:
        file = None if says is None else stack.enter_context(says.open("a"))
        running = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if file is None else file,
            stderr=file,
            text=True,
            env={**os.environ, **environment},
        )
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(timeout=20)
            except subprocess.TimeoutExpired:
                running.kill()


@contextmanager
def yardstick(kind: str, upstream: int, opa: str | None = None) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.yardsticks", kind]
    command += ["--port", str(port), "--upstream", str(upstream)]
    if opa is not None:
        command += ["--opa", opa]
    with process(*command):
        url = f"http://127.0.0.1:{port}/mcp"
        for _ in range(300):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield url


@dataclass(frozen=True, slots=True)
class Subject:
    """A gateway under measurement."""

    url: str
    key: str
    opa_socket: str
    api_url: str
    admin_key: str
    pid: int


@contextmanager
def gateway(
    data_dir: Path,
    upstream_url: str,
    rules: int,
    *,
    module: str = "gateway",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Subject]:
    """A gateway of its own with one server, rules, a budget, and everything on.

    ``module`` is what is run to serve it.
    """
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "init", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GATEWAY_DATA_DIR": str(data_dir)},
    )
    admin = json.loads(made.stdout)["admin_key"]
    port = free_port()
    surroundings = {
        **(environment or {}),
        "GATEWAY_DATA_DIR": str(data_dir),
        "GATEWAY_PORT": str(port),
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_PRIVATE_UPSTREAMS": "127.0.0.0/8",
        "GATEWAY_LOG_LEVEL": "error",
    }
    base = f"http://127.0.0.1:{port}"
    with process(sys.executable, "-m", module, "serve", **surroundings) as serving:
        wait_ready(base)
        with httpx.Client(
            base_url=f"{base}/api/v1",
            headers={"Authorization": f"Bearer {admin}"},
            timeout=30,
            trust_env=False,
        ) as api:
            server = _set_up(api, upstream_url, rules)
            key = _post(api, "/keys", {"role": "project", "name": "bench", "owner": "bench"})["key"]
        yield Subject(
            url=f"{base}/api/v1/mcp/proxy/{server}",
            key=key,
            opa_socket=str(data_dir / "opa" / "opa.sock"),
            api_url=f"{base}/api/v1",
            admin_key=admin,
            pid=serving.pid,
        )


def wait_ready(base: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{base}/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError("the gateway did not become ready")


def _post(api: httpx.Client, path: str, body: object = None) -> Any:
    answer = api.post(path, json=body)
    if answer.is_error:
        raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
    return answer.json()


def _set_up(api: httpx.Client, upstream_url: str, rules: int) -> str:
    new = {"name": "bench", "server_url": upstream_url, "allow_private_network": True}
    server: str = _post(api, "/mcp/servers", new)["id"]
    _post(api, f"/mcp/servers/{server}/scan")
    api.patch(f"/mcp/servers/{server}", json={"status": "ACTIVE"}).raise_for_status()
    name = TOOL["name"]
    _post(api, "/mcp/policies", {"action": "ALLOW", "tool_pattern": name, "reason": "reads"})
    for n in range(rules):
        rule = {"action": "DENY", "tool_pattern": f"other_{n}", "reason": "another tool"}
        _post(api, "/mcp/policies", rule)
    budget = {"scope": "project", "dimension": "requests", "window": "day", "limit": 10**12}
    _post(api, "/budgets", {**budget, "on_exceed": "BLOCK"})
    return server


def flush_ms(folder: Path) -> float:
    """What this disk takes for one durable write of 4 KiB: the median of 200."""
    path = folder / "flush"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    took = []
    try:
        for n in range(200):
            os.pwrite(fd, b"x" * 4096, n * 4096)
            start = time.perf_counter()
            os.fdatasync(fd)
            took.append(time.perf_counter() - start)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(took) * 1000


def measure(rounds: int, seconds: int, folder: Path) -> tuple[list[Row], float]:
    port = free_port()
    with (
        nginx(port) as upstream,
        gateway(folder / "data", upstream, rules=20) as subject,
        yardstick("bare", port) as bare,
        yardstick("relay", port) as relay,
        yardstick("relay", port, subject.opa_socket) as decided,
    ):
        keyed = {**HEADERS, "Authorization": f"Bearer {subject.key}"}
        subjects = [
            ("bare Starlette route", bare, HEADERS),
            ("direct", upstream, HEADERS),
            ("relay, no check", relay, HEADERS),
            ("relay + policy", decided, HEADERS),
            ("everything on", subject.url, keyed),
        ]
        taken: dict[tuple[str, int], list[Row]] = {}
        for connections in CONNECTIONS:
            for what, url, headers in subjects:
                wrk(url, headers, connections, 1, what)  # warms up
            for _ in range(rounds):
                for what, url, headers in subjects:
                    row = wrk(url, headers, connections, seconds, what)
                    taken.setdefault((what, connections), []).append(row)
        return [_median(rows) for rows in taken.values()], flush_ms(folder)


def _median(rows: list[Row]) -> Row:
    return Row(
        rows[0].what,
        rows[0].connections,
        statistics.median(row.calls for row in rows),
        statistics.median(row.p50 for row in rows),
        statistics.median(row.p99 for row in rows),
        sum(row.failed for row in rows),
    )


def _line(row: Row, rows: list[Row]) -> str:
    bare = next(r.calls for r in rows if r.connections == row.connections)
    return (
        f"{row.what:22} {row.connections:>4} {row.calls:>9.0f} {row.p50:>8.2f} {row.p99:>8.2f}"
        f" {row.calls / bare:>9.2f} {row.failed:>7}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for program in ("wrk", "nginx"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: install your system's package of it")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        rows, flush = measure(given.rounds, given.seconds, Path(folder))
    if given.json:
        document = {"flush_ms": flush, "rows": [vars_of(row) for row in rows]}
        print(json.dumps(document))
        return
    print(f"{'':22} conn   calls/s   p50 ms   p99 ms  of bare  failed")
    for row in rows:
        print(_line(row, rows))
    print(f"\none durable write of 4 KiB on this disk: {flush:.2f} ms (median)")


def vars_of(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in Row.__slots__}


if __name__ == "__main__":
    main()
