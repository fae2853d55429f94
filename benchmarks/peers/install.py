"""Installs a peer by its lock file into a virtual environment of its own."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


class NotInstalled(Exception):
    """Why not, in pip's words."""


def installed(name: str, folder: Path) -> Path:
    """The Python that has the peer; made anew unless it is there. Raises `NotInstalled`."""
    place = folder / name
    python, done = place / "bin" / "python", place / "installed"
    if done.exists():
        return python
    _run(sys.executable, "-m", "venv", "--clear", str(place))
    lock = HERE / f"{name}.lock"
    quiet = ("--quiet", "--disable-pip-version-check")
    _run(str(python), "-m", "pip", "install", *quiet, "--require-hashes", "-r", str(lock))
    done.touch()
    return python


def version(name: str) -> str:
    """``name==version`` as the lock has it for this Python, of what was asked for."""
    wanted = (HERE / f"{name}.in").read_text().strip()
    lines = [line for line in (HERE / f"{name}.lock").read_text().splitlines()]
    return next(line.split(" ")[0] for line in lines if line.startswith(f"{wanted}=="))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"{command[0]} took more than 15 minutes") from None
    if done.returncode:
        raise NotInstalled((done.stderr or done.stdout).strip().rpartition("\n")[2])
