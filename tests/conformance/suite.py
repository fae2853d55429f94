"""Runs the official conformance suite and counts what it says, check by check.

Its exit code proves nothing: several broken proxies end with 0. What counts is the multiset of
(scenario, check, status).
"""

import asyncio
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import needs
from tests.installed import installed, run

HERE = Path(__file__).parent
SECONDS = 120
"""For one scenario: a machine that is busy with other tests is no broken proxy."""
_WHEN = re.compile(r"-\d{4}-\d\d-\d\dT[\d-]+Z$")

Check = tuple[str, str, str]
"""Scenario, check id, status."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A version of the suite and what it is run with."""

    package: str
    options: tuple[str, ...] = ()


LEGACY = Suite("conformance", ("--spec-version", "2025-11-25"))
MODERN = Suite("conformance", ("--spec-version", "2026-07-28"))
FIRST = Suite("conformance-first")
"""0.1.16, the last of the first line."""


async def checks(suite: Suite, url: str, scenario: str | None = None) -> Counter[Check]:
    """What a server at `url` is told, in all scenarios or in one; notes (INFO) do not count."""
    modules = _modules()
    main = modules / suite.package / "dist" / "index.js"
    which = ("--suite", "all") if scenario is None else ("--scenario", scenario)
    timed = () if suite is FIRST else ("--timeout", str(SECONDS * 1000))
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(_node(modules), str(main), "server", "--url", url, *which, *timed, *suite.options),
            *("-o", folder),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        found = Counter(_read(Path(folder)))
    assert found, said.decode(errors="replace")[-3000:]
    return found


async def client_checks(
    scenario: str, version: str, environment: Mapping[str, str]
) -> Counter[Check]:
    """What `tests.conformance.client` is told by a scenario's mock server."""
    modules = _modules()
    main = modules / "conformance" / "dist" / "index.js"
    command = f"{shlex.quote(sys.executable)} -m tests.conformance.client"
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(_node(modules), str(main), "client", "--command", command, "--scenario", scenario),
            *("--spec-version", version, "--force", "--timeout", str(SECONDS * 1000), "-o", folder),
            env={**os.environ, **environment},
            cwd=HERE.parents[1],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        found = Counter(_read(Path(folder)))
    assert found, said.decode(errors="replace")[-3000:]
    return found


async def all_checks(suite: Suite, url: str) -> Counter[Check]:
    """What all scenarios say; one that failed is run once more, alone.

    The first line of the suite gives each scenario 30 seconds, which a busy machine may well need.
    """
    found = await checks(suite, url)
    for failed in {name for name, _, status in found if status == "FAILURE"}:
        again = await checks(suite, url, failed.removeprefix("server-"))
        kept = {check: count for check, count in found.items() if check[0] != failed}
        found = Counter(kept) + Counter({(failed, c[1], c[2]): n for c, n in again.items()})
    return found


def _read(folder: Path) -> list[Check]:
    found = []
    for file in folder.rglob("checks.json"):
        scenario = _WHEN.sub("", file.parent.name)
        for check in json.loads(file.read_bytes()):
            if check["status"] != "INFO":
                found.append((scenario, check["id"], check["status"]))
    return found


def _modules() -> Path:
    sources = [HERE / "npm" / name for name in (".npmrc", "package.json", "package-lock.json")]

    def install(target: Path) -> None:
        npm = needs("npm", "it comes with Node.js")
        for source in sources:
            shutil.copy(source, target)
        run([npm, "ci", "--ignore-scripts"], target)

    return installed("conformance", sources, install) / "node_modules"


def _node(modules: Path) -> str:
    """Node.js 22, which the suite needs: a package brings it for Linux."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    node = modules / f"node-{sys.platform}-{machine}" / "bin" / "node"
    if node.exists():
        return str(node)
    return needs("node", "Node.js 22 or later, from https://nodejs.org")
