"""Programs that tests need from a package registry: installed once for a machine, in its cache."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest


def installed(name: str, sources: Iterable[Path], install: Callable[[Path], None]) -> Path:
    """Return the folder that `install` filled, made anew when any of its sources changed."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.name.encode() + source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "policy-gateway-tests" / f"{name}-{digest.hexdigest()[:16]}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        # Another run may install the same: whoever renames first has made it, whole.
        work = Path(tempfile.mkdtemp(dir=home.parent))
        try:
            install(work)
            work.rename(home)
        except OSError:
            if not home.exists():
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return home


def run(command: list[str], folder: Path) -> None:
    """Run an installer; where it fails the test is skipped, or fails when CI is set."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    message = f"{' '.join(command)} failed, perhaps for want of a network: {done.stderr[-2000:]}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
