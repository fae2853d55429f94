"""Gateway, OPA and server killed at random under load; a clock that jumps; descriptors that end."""

import asyncio
import os
import random
import resource
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway import keyring
from gateway.assets import asset
from gateway.data_dir.state import KEYS
from gateway.listeners import management_token
from gateway.policy.sidecar import hand_over, url_of
from tests.builders import a_state
from tests.end_to_end.demonstration import need_opa
from tests.end_to_end.nginx import free_port
from tests.faults.line import PASSED, Line, check, prepare
from tests.faults.table import shows
from tests.faults.upstream import an_upstream
from tests.gateway_process import ROOT, GatewayProcess, a_gateway
from tests.policy.world import a_sidecar

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))
"""Of kills; `make faults` has thirty."""
CALLERS = 8
GATEWAY, OPA, MACHINE = "The gateway", "OPA", "The machine"
KILLED = {
    *(PASSED, "-31006 upstream_error", "-31007 upstream_unreachable", "-31008 policy_unavailable"),
    *("-31010 not_forwarded", "ConnectError", "ReadError", "RemoteProtocolError", "WriteError"),
}
"""All that a caller may meet while anything at all is killed."""


@asynccontextmanager
async def a_server(port: int, file: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The tool's server as a process; port 0 takes a free one."""
    command = (sys.executable, "-m", "tests.faults.upstream", str(port), str(file))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _load(line: Line, over: asyncio.Event) -> None:
    while not over.is_set():
        await line.call()
        await asyncio.sleep(0)


async def _round(
    gateway: GatewayProcess, line: Line, victim: str, server: asyncio.subprocess.Process
) -> None:
    """One kill under load; where the gateway survives it, calls pass again once it is over."""
    over = asyncio.Event()
    await line.until()
    callers = [asyncio.create_task(_load(line, over)) for _ in range(CALLERS)]
    await asyncio.sleep(random.uniform(0.05, 0.5))  # the random moment
    match victim:
        case "gateway":
            os.kill(gateway.pid, signal.SIGKILL)
        case "OPA":
            os.kill(gateway.opa(), signal.SIGKILL)
        case _:
            server.kill()
    if victim == "gateway":
        await gateway.process.wait()
    else:
        await asyncio.sleep(0.2)
    over.set()
    await asyncio.gather(*callers)
    if victim == "OPA":
        await line.until()


@shows(
    *(GATEWAY, "is killed under load"),
    "the connection ends; whether the call ran they cannot know, and the log can",
    *("`unknown` for what was on its way, by the restart", "it is started again"),
)
@shows(
    *(OPA, "is killed under load", "−31008 `policy_unavailable`"),
    *("the refusals, by reason", "the gateway starts it again"),
)
async def test_whatever_is_killed_under_load_nothing_runs_undecided(tmp_path: Path) -> None:
    need_opa()
    seen, data_dir = tmp_path / "seen", tmp_path / "data"
    seen.touch()
    async with a_server(0, seen) as (_, port):
        budget = prepare(data_dir, f"http://127.0.0.1:{port}/mcp")
    victims = ["OPA", "gateway", "server"]
    told: set[str] = set()
    for number in range(ROUNDS):
        victim = victims[number % len(victims)]
        async with (
            a_server(port, seen) as (server, _),
            a_gateway(data_dir) as gateway,
            Line(gateway) as line,
        ):
            await _round(gateway, line, victim, server)
            told |= set(line.told.values())
            if gateway.process.returncode is None:
                await gateway.end()
    assert told <= KILLED
    assert PASSED in told
    check(data_dir, seen.read_text().split(), budget)


@shows(
    *(OPA, "that somebody else runs (`GATEWAY_OPA_URL`) is killed under load"),
    *("−31008 `policy_unavailable`", "the refusals, by reason", "whoever runs it starts it again"),
)
async def test_a_sidecar_that_is_killed_is_asked_again_once_it_is_back(tmp_path: Path) -> None:
    need_opa()
    data_dir, folder, port = tmp_path / "data", tmp_path / "own", free_port()
    async with an_upstream() as upstream:
        budget = prepare(data_dir, upstream.url)
        bundle_key = keyring.load(data_dir / KEYS).bundle
        hand_over(folder, asset("opa-config.yaml"), management_token(data_dir), bundle_key)
        options, url = ("--management-port", str(port)), f"http://127.0.0.1:{port}"
        with a_sidecar(folder, url) as opa:
            async with (
                a_gateway(data_dir, *options, settings={"GATEWAY_OPA_URL": url_of(folder)}) as made,
                Line(made) as line,
            ):
                await line.until()
                over = asyncio.Event()
                callers = [asyncio.create_task(_load(line, over)) for _ in range(CALLERS)]
                await asyncio.sleep(random.uniform(0.05, 0.5))
                opa.kill()
                await asyncio.sleep(0.2)
                over.set()
                await asyncio.gather(*callers)
                assert await line.call() == "-31008 policy_unavailable"
                with a_sidecar(folder, url):
                    await line.until()
                    await made.end()
        assert set(line.told.values()) == {PASSED, "-31008 policy_unavailable"}
        check(data_dir, upstream.seen, budget)


@shows(
    *(MACHINE, "sets its clock an hour back, a day on, a day back"),
    *("nothing", "times that never go back", "records go on once the clock has caught up"),
)
@shows(
    *(MACHINE, "has a disk that takes a tenth of a second for each commit"),
    *("slower answers: calls that wait together share a commit", "nothing", "nothing to do"),
)
async def test_a_clock_that_jumps_and_a_slow_disk_refuse_nobody(tmp_path: Path) -> None:
    need_opa()
    clock = tmp_path / "clock"
    clock.write_text("0")
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", upstream.url)
        options = ("--clock", str(clock), "--slow-commits", "0.1")
        async with a_gateway(tmp_path / "data", *options) as gateway, Line(gateway) as line:
            await line.until()
            for seconds in (-3600, 86_400, 0):
                aside = tmp_path / "aside"
                aside.write_text(str(seconds))
                aside.rename(clock)
                said = await asyncio.gather(*(line.call() for _ in range(16)))
                assert set(said) <= {PASSED, "-31010 not_forwarded"}
                assert PASSED in said
            await gateway.end()
        check(tmp_path / "data", upstream.seen, budget)


IDLE = 1000
HELD = 300
DESCRIPTORS = 256


@shows(
    *(GATEWAY, "has no file descriptors left"),
    *(
        "no connection, one that waits, or −31010 `stop_unreadable`: nothing is sent",
        "what was decided, and no stop, since nobody raised one",
    ),
    "connections that say nothing are closed after 5 s",
)
async def test_out_of_descriptors_the_gateway_comes_back_by_itself(tmp_path: Path) -> None:
    need_opa()
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", upstream.url)
        async with a_gateway(tmp_path / "data") as gateway, Line(gateway) as line:
            await line.until()
            limit = (DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, limit)
            writers = await _connect(gateway, HELD)
            await asyncio.gather(*(line.call() for _ in range(16)))
            await line.until()
            await asyncio.gather(*(_closed(writer) for writer in writers))
            await line.until()
            await gateway.end()
            told = {said for said in line.told.values() if said.startswith("-31")}
            assert told <= {"-31010 stop_unreadable", *KILLED}
        check(tmp_path / "data", upstream.seen, budget)
        with a_state(tmp_path / "data") as world:
            assert "stop.raised" not in {one["event"] for one in world.records("event")}


@shows(
    *("A caller", "opens 1,000 connections and says nothing, or drips its head"),
    *("others nothing; it a 408, after 5 s", "nothing", "nothing to do"),
)
@shows(
    *("A caller", "hangs up while its call is on its way"),
    *(
        "nobody is there to be told",
        "the decision, and the outcome that there was",
        "nothing to do",
    ),
)
async def test_callers_that_hang_drip_or_leave_harm_nobody_else(tmp_path: Path) -> None:
    need_opa()
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", upstream.url)
        async with a_gateway(tmp_path / "data") as gateway, Line(gateway) as line:
            await line.until()
            before = gateway.memory()
            writers = await _connect(gateway, IDLE)
            for writer in writers[::2]:
                writer.write(b"POST /api/v1/mcp/proxy/srv_1 HTTP/1.1\r\nHost: ")
            said = await asyncio.gather(*(line.call() for _ in range(32)))
            assert set(said) == {PASSED}
            assert gateway.memory() - before < 64 * 1024**2
            leaving = [asyncio.create_task(line.call("hang")) for _ in range(8)]
            while sum(name.startswith("hang") for name in upstream.seen) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            for task in leaving:
                task.cancel()
            await asyncio.wait(leaving)
            upstream.release.set()
            await asyncio.gather(*(_closed(writer) for writer in writers))
            await line.until()
            await gateway.end()
        fates = check(tmp_path / "data", upstream.seen, budget)
    assert {fate for name, fate in fates.items() if name.startswith("hang")} <= {
        *("answered", "unknown")
    }


async def _connect(gateway: GatewayProcess, count: int) -> list[asyncio.StreamWriter]:
    port = int(gateway.base_url.rpartition(":")[2])
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for reader, writer in opened:
        _READERS[writer] = reader
    return [writer for _, writer in opened]


_READERS: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}


async def _closed(writer: asyncio.StreamWriter) -> None:
    """The other side closes it, whatever it says before."""
    with suppress(ConnectionError):
        await asyncio.wait_for(_READERS.pop(writer).read(), 120)
    writer.close()
