"""Three MCP servers on three official SDKs, installed once and started for a test session."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import needs
from tests.installed import installed, run

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
    run([go, "build", "-buildvcs=false", "-o", str(target / "server"), "."], HERE / "go")


def _install_typescript(target: Path) -> None:
    npm = needs("npm", "it comes with Node.js")
    for name in (".npmrc", "package.json", "package-lock.json", "server.mjs"):
        shutil.copy(HERE / "typescript" / name, target)
    run([npm, "ci", "--ignore-scripts"], target)


def _installed(language: str, install: Callable[[Path], None]) -> Path:
    sources = [path for path in (HERE / language).iterdir() if path.is_file()]
    return installed(language, sources, install)
