"""How far the tests of the policy that decides reach: measured when asked for, to the side."""

import asyncio
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Literal

from gateway.frozen import frozen
from gateway.policy import proof
from gateway.policy.proof import Commands, Covered, Dropped
from gateway.policy.sources import BundleFault, Tree


@frozen
class Coverage:
    """Of one bundle. Paths are those in the archive."""

    state: Literal["measuring", "measured", "unknown"]
    """``unknown``: `why` says it. Tests and sources of an earlier start may be gone."""
    files: Mapping[str, Covered] = field(default_factory=dict)
    tests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of tests by the folder that holds them."""
    why: str = ""

    def tests_of(self, file: str) -> tuple[str, ...]:
        """Names of the tests beside a file, or in the nearest folder above it that has some."""
        folder = file
        while folder := folder.rpartition("/")[0]:
            if found := self.tests.get(folder):
                return found
        return ()


class Measuring:
    """Belongs to the event loop. One bundle at a time, at low priority; the last result is kept."""

    def __init__(self, opa: Path) -> None:
        self._opa = opa
        self._digest = ""
        self._found = Coverage("unknown")
        self._commands = Commands(opa, background=True)
        self._task: asyncio.Task[None] | None = None

    def of(self, digest: str, tree: Tree) -> Coverage:
        """What is known of this bundle now; the first to ask begins the measurement."""
        if digest != self._digest:
            self.close()
            self._digest, self._found = digest, Coverage("measuring")
            self._commands = Commands(self._opa, background=True)
            self._task = asyncio.create_task(self._measure(self._commands, tree))
        return self._found

    def close(self) -> None:
        """End what is being measured; nobody will read it."""
        self._commands.drop()

    async def _measure(self, commands: Commands, tree: Tree) -> None:
        try:
            files = await asyncio.to_thread(proof.coverage, commands, tree)
            found = Coverage("measured", files, proof.tests_by_folder(tree))
        except Dropped:
            return
        except (BundleFault, OSError) as fault:
            found = Coverage("unknown", why=str(fault))
        if commands is self._commands:
            self._found = found
