"""The launcher, with a program that would outlive anybody: `sleep` says and hears nothing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.policy import launch
from tests.policy.world import alive

LAUNCHER = [sys.executable, "-I", "-S", launch.__file__]

_GATEWAY = """
import os, subprocess, sys, time
lifeline, *launcher = sys.argv[1:]
process = subprocess.Popen(
    [*launcher, str(os.getpid()), str(1 << 30), lifeline, "/bin/sleep", "60"],
    stdin=subprocess.PIPE,
)
children = f"/proc/{process.pid}/task/{process.pid}/children"
while "sleep" not in open(f"/proc/{process.pid}/comm").read() and not open(children).read():
    time.sleep(0.01)
print(process.pid, open(children).read(), flush=True)
time.sleep(60)
"""

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc and asks for prctl, which only Linux has"
)


@linux_only
@pytest.mark.parametrize("lifeline", ["prctl", "pipe"])
def test_the_program_ends_when_the_gateway_is_killed(lifeline: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _GATEWAY, lifeline, *LAUNCHER], stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        family = [int(pid) for pid in gateway.stdout.readline().split()]
        assert len(family) == (1 if lifeline == "prctl" else 2)
        assert all(alive(pid) for pid in family)
        gateway.kill()
    assert _ended(family)


@linux_only
def test_ending_the_launcher_that_stayed_ends_its_program() -> None:
    process = subprocess.Popen(
        [*LAUNCHER, "0", str(1 << 30), "pipe", "/bin/sh", "-c", "echo $$; exec sleep 60"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        program = int(process.stdout.readline())
        process.terminate()
        process.wait(10)
    assert _ended([program])


def test_the_exit_code_of_the_program_is_the_launchers() -> None:
    code, _ = _run_to_its_end("/bin/sh", "-c", "exit 7")
    assert code == 7


@linux_only
def test_nothing_starts_for_a_gateway_that_is_already_gone(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    done = subprocess.run(
        [*LAUNCHER, "1", str(1 << 30), "prctl", "/bin/sh", "-c", f"touch '{marker}'"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "gateway is gone" in done.stderr
    assert not marker.exists()


@linux_only
def test_the_program_is_bound_by_its_memory_limit_and_leaves_no_core() -> None:
    _, printed = _run_to_its_end("/bin/cat", "/proc/self/limits", memory=77 << 20)
    limits = {line[:20].strip(): line[20:].split()[:2] for line in printed.splitlines()}
    assert limits["Max data size"] == [str(77 << 20)] * 2
    assert limits["Max core file size"] == ["0", "0"]


def _run_to_its_end(*command: str, memory: int = 1 << 30) -> tuple[int, str]:
    """Exit code and output of a program whose gateway lives: its standard input stays open."""
    with subprocess.Popen(
        [*LAUNCHER, "0", str(memory), "pipe", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        return process.wait(), printed


def _ended(pids: list[int]) -> bool:
    """Within two seconds; a kill by the kernel takes milliseconds."""
    end = time.monotonic() + 2
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
