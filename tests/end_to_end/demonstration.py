"""A demonstration as a child process: started, read from, watched as it ends."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.demo.instructions import Demo
from gateway.policy import opa_binary
from tests.places import VARIABLE, shared, variables_of

START_SECONDS = 120
END_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Running:
    demo: Demo
    process: "subprocess.Popen[str]"


def environment() -> dict[str, str]:
    """This one's, without settings of its own: a demonstration must work without any."""
    kept = {n: v for n, v in os.environ.items() if not n.upper().startswith("GATEWAY_")}
    kept |= {n: os.environ[n] for n in ("GATEWAY_OPA_BIN", "GATEWAY_TOOLS_DIR") if n in os.environ}
    if shared() and VARIABLE in os.environ:
        kept[VARIABLE] = os.environ[VARIABLE]
    # A machine that stands still for a moment must not look like a policy that does not answer.
    return kept | {"GATEWAY_DECISION_SECONDS": "20", "GATEWAY_PERMIT_SECONDS": "20"}


def need_opa() -> None:
    """Skip without the pinned OPA, or fail when CI is set."""
    try:
        opa_binary.find()
    except opa_binary.OpaMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def start(
    data_dir: Path,
    *options: str,
    python: str = sys.executable,
    cwd: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> "subprocess.Popen[str]":
    words = [python, "-m", "gateway", "demo", "--json", "--data-dir", str(data_dir), *options]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **variables_of(data_dir), **(settings or {})},
        cwd=cwd,
    )


@contextmanager
def running(
    data_dir: Path,
    *,
    python: str = sys.executable,
    cwd: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """A demonstration that is ready; ended by SIGTERM if the test did not end it."""
    process = start(data_dir, "--port", "0", python=python, cwd=cwd, settings=settings)
    assert process.stdout is not None
    try:
        readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        line = process.stdout.readline() if readable else ""
        if not line:
            process.kill()
            pytest.fail(f"the demonstration did not start: {process.communicate()[1]}")
        yield Running(Demo(**json.loads(line)), process)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def descendants(pid: int) -> list[int]:
    """Every process below this one (Linux)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def ends(pidfd: int) -> bool:
    """True once the process behind the descriptor has ended; waits for it."""
    return bool(select.select([pidfd], [], [], END_SECONDS)[0])
