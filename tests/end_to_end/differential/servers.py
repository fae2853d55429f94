"""Three MCP servers on three official SDKs, installed once and started for a test session."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import needs

HERE = Path(__file__).parent
LANGUAGES = ("python", "typescript", "go")


@contextmanager
def running(language: str) -> Iterator[str]:
    """Start the fixture server of ``language``; give its base URL."""
    with subprocess.Popen(_command(language), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port.isdigit(), f"the {language} server did not start"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _command(language: str) -> list[str]:
    if language == "python":
        return [sys.executable, str(HERE / "python" / "server.py")]
    if language == "go":
        return [str(_installed("go", _build_go) / "server")]
    node = needs("node", "Node.js 20 or later, from https://nodejs.org or your distribution")
    return [node, str(_installed("typescript", _install_typescript) / "server.mjs")]


def _build_go(target: Path) -> None:
    go = needs("go", "Go 1.25 or later, from https://go.dev/dl")
    _run([go, "build", "-buildvcs=false", "-o", str(target / "server"), "."], HERE / "go")


def _install_typescript(target: Path) -> None:
    npm = needs("npm", "it comes with Node.js")
    for name in (".npmrc", "package.json", "package-lock.json", "server.mjs"):
        shutil.copy(HERE / "typescript" / name, target)
    _run([npm, "ci", "--ignore-scripts"], target)


def _installed(language: str, install: Callable[[Path], None]) -> Path:
    """Return the folder of an installed server, made anew when any of its sources changed."""
    digest = hashlib.sha256()
    for source in sorted(path for path in (HERE / language).iterdir() if path.is_file()):
        digest.update(source.name.encode() + source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "policy-gateway-tests" / f"{language}-{digest.hexdigest()[:16]}"
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


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    message = f"{' '.join(command)} failed, perhaps for want of a network: {done.stderr[-2000:]}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
