"""This gateway beside others that can be installed by an ordinary package, in one run.

    python -m benchmarks.peers.compare [--rounds 3] [--seconds 4] [--folder DIR] [--only NAME,…]
        [--url NAME=URL [--header 'NAME: VALUE'] [--tool NAME]] [--json]

All of them forward the same bytes to the same upstream, a small MCP server of its own process, and
wrk calls them in turn. Every peer is installed by its lock file into a virtual environment in the
folder, and set up as its documentation has it; one that cannot be is told with the reason. Another
gateway, which runs already and forwards to a server of the same tool, is measured by --url.

A table tells what it costs to be there. What each does for a call is not the same, and is told
below it. `us a call` is the processor's time of the peer's processes, memory is theirs too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx
import orjson

from benchmarks.calls import CONNECTIONS, run_wrk
from benchmarks.peers.install import NotInstalled
from benchmarks.peers.subjects import PEERS, Endpoint, NotStarted, Peer, elsewhere, upstream
from benchmarks.processes import processor_seconds, resident_mb, with_children

_FAILURES = (
    *(NotInstalled, NotStarted, RuntimeError, OSError, ValueError),
    *(httpx.HTTPError, subprocess.SubprocessError),
)
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2025-06-18",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Calls per second, milliseconds, microseconds of the processor a call, megabytes."""

    name: str
    connections: int
    calls: float
    p50: float
    p99: float
    used: float | None
    memory: float | None
    failed: int


@dataclass(frozen=True, slots=True)
class Absent:
    name: str
    why: str


@dataclass(slots=True)
class _Subject:
    name: str
    endpoint: Endpoint


def compared(
    peers: Sequence[Peer], shelf: Path, rounds: int, seconds: int
) -> Iterator[Measured | Absent]:
    """All are started before any is measured, and take turns."""
    with upstream() as url, ExitStack() as stack:
        subjects = []
        for peer in peers:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peer-")))
            try:
                endpoint = stack.enter_context(peer.start(folder, shelf, url))
                _one_call(endpoint)
            except _FAILURES as fault:
                yield Absent(peer.name, f"{type(fault).__name__}: {fault}")
            else:
                subjects.append(_Subject(peer.name, endpoint))
        for connections in CONNECTIONS:
            for subject in subjects:
                _round(subject, connections, 1)  # warms up
            taken: list[list[Measured]] = [[] for _ in subjects]
            for _ in range(rounds):
                for subject, rows in zip(subjects, taken, strict=True):
                    rows.append(_round(subject, connections, seconds))
            yield from map(middle, taken)


def middle(rows: Sequence[Measured]) -> Measured:
    """The median of each number; failures are added up."""

    def known(values: Sequence[float | None]) -> float | None:
        found = [value for value in values if value is not None]
        return median(found) if found else None

    return Measured(
        rows[0].name,
        rows[0].connections,
        median(row.calls for row in rows),
        median(row.p50 for row in rows),
        median(row.p99 for row in rows),
        known([row.used for row in rows]),
        known([row.memory for row in rows]),
        sum(row.failed for row in rows),
    )


def _one_call(endpoint: Endpoint) -> None:
    answer = httpx.post(
        endpoint.url,
        content=body(endpoint.tool),
        headers={**_HEADERS, **endpoint.headers},
        timeout=60,
        trust_env=False,
    )
    if answer.status_code != 200 or "result" not in answer.json():
        raise NotStarted(f"a call is answered with {answer.status_code}: {answer.text[:200]}")


def body(tool: str) -> bytes:
    """A call as clients of every revision send it."""
    arguments = {"soql": "SELECT Id, Name FROM Account WHERE Industry = 'x'", "limit": 50}
    params = {"name": tool, "arguments": arguments}
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


def _round(subject: _Subject, connections: int, seconds: int) -> Measured:
    endpoint = subject.endpoint
    script = ["wrk.method = 'POST'", f"wrk.body = [==[{body(endpoint.tool).decode()}]==]"]
    headers = {**_HEADERS, **endpoint.headers}
    script += [f"wrk.headers['{name}'] = '{value}'" for name, value in headers.items()]
    before = _processor(endpoint)
    row = run_wrk(endpoint.url, "\n".join(script) + "\n", connections, seconds, subject.name)
    used = memory = None
    if endpoint.pid is not None:
        used = (_processor(endpoint) - before) / max(1.0, row.calls * seconds) * 1e6
        memory = sum(map(resident_mb, with_children(endpoint.pid)))
    late = row.p50, row.p99
    return Measured(subject.name, connections, row.calls, *late, used, memory, row.failed)


def _processor(endpoint: Endpoint) -> float:
    return 0.0 if endpoint.pid is None else processor_seconds(endpoint.pid)


def table(found: Sequence[Measured | Absent]) -> str:
    """In Markdown, each beside this gateway."""
    lines = [
        "| | connections | calls/s | of ours | p50 ms | p99 ms | us a call | MB | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    measured = [one for one in found if isinstance(one, Measured)]
    ours = {one.connections: one.calls for one in measured if one.name == "policy-gateway"}
    for one in measured:
        beside = f"{one.calls / ours[one.connections]:.2f}" if one.connections in ours else ""
        used = "" if one.used is None else f"{one.used:,.0f}"
        memory = "" if one.memory is None else f"{one.memory:,.0f}"
        lines.append(
            f"| {one.name} | {one.connections} | {one.calls:,.0f} | {beside} | {one.p50:.1f}"
            f" | {one.p99:.1f} | {used} | {memory} | {one.failed} |"
        )
    lines += [
        f"| {one.name} | | not measured: {one.why} |" for one in found if isinstance(one, Absent)
    ]
    return "\n".join(lines)


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="of what is installed; it is kept")
    parser.add_argument("--only", help="names of peers, by comma")
    parser.add_argument("--url", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--header", action="append", default=[], help="that --url is sent")
    parser.add_argument("--tool", help="its tool's name there")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _asked(given: argparse.Namespace) -> list[Peer]:
    headers = dict(header.split(": ", 1) for header in given.header)
    peers = list(PEERS)
    for named in given.url:
        name, _, url = named.partition("=")
        endpoint = Endpoint(url, headers, *([given.tool] if given.tool else []))
        peers.append(Peer(name, elsewhere(endpoint), "given by its URL"))
    if given.only:
        peers = [peer for peer in peers if peer.name.partition("==")[0] in given.only.split(",")]
    return peers


def main() -> None:
    given = _given()
    peers = _asked(given)
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        folder = given.folder or Path(temporary)
        found = list(compared(peers, folder.absolute(), given.rounds, given.seconds))
    if given.json:
        json.dump([asdict(one) for one in found], sys.stdout)
        return
    print(table(found))
    for peer in peers:
        print(f"\n{peer.name}: {peer.does}.")


if __name__ == "__main__":
    main()
