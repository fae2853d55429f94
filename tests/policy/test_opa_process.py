"""The supervisor, with a real OPA."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest

from gateway.policy.engine import EngineFault
from gateway.policy.opa import OpaOptions
from gateway.policy.opa_process import OpaProcess
from gateway.settings.opa import LONGEST_SOCKET_PATH
from tests.policy.world import MODES, World, alive, bundle_of, running

pytestmark = pytest.mark.anyio

QUICK = OpaOptions(first_pause=0.05, check_seconds=0.1)


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a process tells nobody that it ended
            await anyio.sleep(0.01)


async def _restarted(world: World, restarts: int = 1) -> None:
    await _until(lambda: world.opa.status().restarts >= restarts and world.opa.ready)


async def test_opa_answers_from_the_offered_bundle(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "src", MODES)
    async with running(tmp_path, bundle) as world:
        status = world.opa.status()
        assert status.running
        assert status.ready
        assert status.active_revision == bundle.revision
        assert (status.restarts, status.last_error) == (0, "")
        pid = world.pid
    assert not alive(pid)
    assert not world.opa.socket_path.exists()
    assert not world.opa.ready


async def test_a_new_bundle_is_live_without_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        pid = world.pid
        newer = bundle_of(tmp_path / "src", MODES.replace("t.one", "t.two"))
        world.bundles.offer(newer)
        await world.opa.wait_ready(5)
        answer = await world.engine.ask(b"gateway/decision", b'{"input":{}}', key="k")
        assert answer.result["policy_ids"] == ["t.two"]
        assert answer.bundle_digest == newer.digest
        assert world.pid == pid


async def test_nobody_else_may_reach_opa_or_read_what_it_is_given(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        folder = world.opa.socket_path.parent
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert modes == {"opa.sock": 0o600, "token": 0o600, "bundle.key": 0o600, "state": 0o700}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_opa_sees_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET_KEY", "do not show")
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        transport = httpx.AsyncHTTPTransport(uds=str(world.opa.socket_path))
        async with httpx.AsyncClient(transport=transport) as client:
            query = {"query": "env := opa.runtime().env"}
            response = await client.post("http://opa/v1/query", json=query)
            environment = response.json()["result"][0]["env"]
            config = (await client.get("http://opa/v1/config")).text
    assert set(environment) <= {
        *("GOGC", "GOMEMLIMIT", "HOME", "LC_CTYPE"),
        *("GATEWAY_BUNDLE_URL", "GATEWAY_BUNDLE_TOKEN_FILE", "GATEWAY_OPA_STATE"),
    }
    assert (b"k" * 32).hex() not in config


async def test_an_unsigned_or_foreign_bundle_never_becomes_active(tmp_path: Path) -> None:
    good = bundle_of(tmp_path / "src", MODES)
    async with running(tmp_path, good) as world:
        world.bundles.offer(bundle_of(tmp_path / "src", MODES + "\nx := 1\n", key=b"other" * 7))
        await _until(lambda: "verif" in world.opa.status().last_error.lower())
        assert world.opa.status().active_revision == good.revision


async def test_a_long_data_directory_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with running(deep, bundle_of(tmp_path / "src", MODES)) as world:
        path = world.opa.socket_path
        assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
        assert path.is_relative_to(tempfile.gettempdir()) or path.is_relative_to("/tmp")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert world.opa.ready
    assert not path.parent.exists()


async def test_a_data_directory_may_have_any_name(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="a b%20#?=,\\c ") as odd:
        async with running(Path(odd), bundle_of(tmp_path / "src", MODES)) as world:
            assert world.opa.socket_path.is_relative_to(odd)
            await world.engine.ask(b"gateway/decision", b'{"input":{}}', key="k")


async def test_opa_that_dies_is_restarted_and_refuses_meanwhile(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES), QUICK) as world:
        os.kill(world.pid, signal.SIGKILL)
        await _until(lambda: not world.opa.status().running)
        assert not world.opa.ready
        with pytest.raises(EngineFault, match="not running"):
            await world.engine.ask(b"gateway/decision", b'{"input":{}}', key="k")
        await _restarted(world)
        await world.engine.ask(b"gateway/decision", b'{"input":{}}', key="k")
        assert world.opa.status().last_error == ""


async def test_opa_that_hangs_is_killed_and_restarted(tmp_path: Path) -> None:
    options = OpaOptions(first_pause=0.05, check_seconds=0.1, missed_checks=2)
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES), options) as world:
        hung = world.pid
        os.kill(hung, signal.SIGSTOP)
        await asyncio.to_thread(os.waitid, os.P_PID, hung, os.WSTOPPED | os.WNOWAIT)
        await _restarted(world)
        assert not alive(hung)


async def test_each_restart_waits_twice_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    options = OpaOptions(first_pause=0.01, longest_pause=0.05, check_seconds=0.1)
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES), options) as world:
        monkeypatch.setattr(
            "gateway.policy.opa_process._log.warning",
            lambda event, **said: (
                pauses.append(said["restart_in_seconds"]) if event == "opa ended" else None
            ),
            raising=False,
        )
        for restart in range(1, 5):
            os.kill(world.pid, signal.SIGKILL)
            await _restarted(world, restart)
    assert pauses == [0.01, 0.02, 0.04, 0.05]


async def test_a_program_that_cannot_start_is_an_error_with_its_words(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        script = tmp_path / "not-opa"
        script.write_text("#!/bin/sh\necho 'error: no such thing' >&2\nexit 3\n")
        script.chmod(0o755)
        other = OpaProcess(
            binary=script,
            config=tmp_path / "none.yaml",
            data_dir=tmp_path / "other",
            token="t",
            key=b"k" * 32,
            bundles=world.bundles,
            options=OpaOptions(first_pause=0.01),
        )
        await other.start(world.url)
        await _until(lambda: other.status().restarts >= 2)
        assert "no such thing" in other.status().last_error
        with pytest.raises(TimeoutError):
            await other.wait_ready(0.01)
        await other.stop()


async def test_opa_cannot_take_more_memory_than_it_is_given(tmp_path: Path) -> None:
    options = OpaOptions(memory_bytes=256 << 20, first_pause=0.05, check_seconds=0.1)
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES), options) as world:
        greedy = world.pid
        transport = httpx.AsyncHTTPTransport(uds=str(world.opa.socket_path))
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            body = b'{"input":{"arguments":[' + b",".join([b'{"a":{"b":[1]}}'] * 1_000_000) + b"]}}"
            with pytest.raises(httpx.HTTPError):
                await client.post("http://opa/v1/data/gateway/decision", content=body)
        await _restarted(world)
        assert not alive(greedy)


@pytest.mark.parametrize("lifeline", ["prctl", "pipe"])
async def test_opa_ends_when_the_gateway_is_killed(tmp_path: Path, lifeline: str) -> None:
    """A process plays the gateway, and gets SIGKILL: it can clean up nothing."""
    if lifeline == "prctl" and sys.platform != "linux":
        pytest.skip("prctl is Linux's; the pipe is tested here")
    bundle_of(tmp_path / "src", MODES)
    with subprocess.Popen(  # noqa: ASYNC220 - what is waited for is its first line
        [sys.executable, "-c", _GATEWAY, tmp_path, lifeline], stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        family = [int(pid) for pid in gateway.stdout.readline().split()]
        assert family
        assert all(alive(pid) for pid in family)
        gateway.kill()
    await _until(lambda: not any(alive(pid) for pid in family), 5)


_GATEWAY = """
import asyncio, sys
from pathlib import Path
from gateway.policy.opa import OpaOptions
from gateway.telemetry.logs import log_to_stderr
from tests.policy.world import MODES, bundle_of, running

log_to_stderr("error")

def family(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *map(int, children.read_text().split())] if children.exists() else [pid]

async def main():
    folder = Path(sys.argv[1])
    bundle = bundle_of(folder / "src", MODES)
    async with running(folder, bundle, OpaOptions(lifeline=sys.argv[2])) as world:
        print(*family(world.pid), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""
