"""Runs one of OPA's commands to its end, in an empty environment."""

import subprocess
from pathlib import Path
from typing import TypeAlias

from gateway.policy.sources import BundleFault

Done: TypeAlias = "subprocess.CompletedProcess[bytes]"


def run_opa(opa: Path, *words: str | Path, folder: Path | None = None, seconds: int = 60) -> Done:
    """Return what OPA printed and how it ended. Raises `BundleFault` when it cannot run."""
    command: list[str | Path] = [opa, *words]
    try:
        return subprocess.run(
            command, cwd=folder, env={}, capture_output=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleFault(f"cannot run {opa}: {error}") from error
