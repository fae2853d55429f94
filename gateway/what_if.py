"""What a candidate of the organisation's policy would have decided for recorded calls.

The candidate is foreign Rego: it is built under the gateway's capabilities and schemas, and asked
in an OPA of its own that has no environment, no network, and limits of memory and time.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path, PurePosixPath

from sqlalchemy import Connection

from gateway.clock import rfc3339
from gateway.frozen import frozen
from gateway.keyring import Keyring
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import Bundle, build_bundle
from gateway.policy.replay import Input, Replay, replay
from gateway.policy.sources import BundleFault, the_sources
from gateway.registry import recorded
from gateway.registry.core import Registry
from gateway.registry.faults import Conflict, Invalid, Unready
from gateway.values import ProjectId

MOST_BYTES = 64 << 20
"""Of recorded inputs that one replay holds; the newest come first."""
_SUFFIXES = (".rego", ".json", ".yaml", ".yml")


@frozen
class Candidate:
    """``files`` are laid over the organisation's policy: a path below its folder to the text, or to
    None, which takes the file away.
    """

    files: Mapping[str, str | None]
    seconds: float
    """How far back the recorded calls go."""
    limit: int
    """Of calls, the newest."""


@frozen
class WhatIf:
    """One replay at a time: it takes as much of the machine as the gateway does."""

    registry: Registry
    keyring: Keyring
    opa: Path
    policy_dirs: tuple[Path, ...]
    bundles: BundleServer
    running: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def replay(self, project_id: ProjectId, candidate: Candidate) -> tuple[Replay, int]:
        """Return what would change, and how many calls have no recorded input any more.

        Raises `Invalid` with file and line when the candidate does not build, `Conflict` when
        another replay runs, `Unready` when no bundle serves yet.
        """
        faults = {f"files.{name}": why for name in candidate.files if (why := _fault(name))}
        if faults:
            raise Invalid(faults)
        if self.running.locked():
            raise Conflict("Another replay runs; try again when it is done.")
        serving = self.bundles.current
        if serving is None:
            raise Unready("No policy is active yet; try again.")
        async with self.running:
            inputs, unkept = await self.registry.read(
                lambda connection: self._inputs(connection, project_id, candidate)
            )
            return await asyncio.to_thread(self._replay, candidate, serving, inputs), unkept

    def _inputs(
        self, connection: Connection, project_id: ProjectId, candidate: Candidate
    ) -> tuple[list[Input], int]:
        start = rfc3339(max(0.0, time.time() - candidate.seconds))
        found = recorded.since(connection, self.keyring, start, candidate.limit, project_id)
        inputs: list[Input] = []
        unkept = size = 0
        for decision in found:
            if decision.question is None:
                unkept += 1
                continue
            size += len(decision.question)
            if size > MOST_BYTES:
                break
            inputs.append(Input(decision.trace_id, decision.tool, decision.question))
        return inputs, unkept

    def _replay(self, candidate: Candidate, serving: Bundle, inputs: list[Input]) -> Replay:
        with tempfile.TemporaryDirectory(prefix="gateway-candidate-") as aside:
            folders = _laid_over(self.policy_dirs, candidate.files, Path(aside))
            try:
                # The key signs nothing that is served.
                built = build_bundle(the_sources(folders), opa=self.opa, key=bytes(32))
                return replay(serving.archive, built.archive, inputs, self.opa)
            except BundleFault as fault:
                field_name, why = _named(fault, folders)
                raise Invalid({field_name: why}) from None


def _fault(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or name != str(path):
        return "must be a path below the folder of policy, such as all/exports/exports.rego"
    return None if path.suffix in _SUFFIXES else "must be Rego, JSON or YAML"


def _laid_over(folders: Sequence[Path], files: Mapping[str, str | None], aside: Path) -> list[Path]:
    """Copies of the folders; the files go into the one that has them, or else the first."""
    copies = []
    for number, folder in enumerate(folders or [None]):
        copy = aside / str(number)
        if folder is None:
            copy.mkdir()
        else:
            try:
                shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".*"))
            except (OSError, shutil.Error) as error:
                raise BundleFault(f"cannot be read: {error}", folder) from None
        copies.append(copy)
    for name, text in files.items():
        place = next((copy / name for copy in copies if (copy / name).exists()), copies[0] / name)
        if text is None:
            place.unlink(missing_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return copies


def _named(fault: BundleFault, folders: Sequence[Path]) -> tuple[str, str]:
    """The field and what is wrong with it; of our own folders nothing is told."""
    file, where = Path(fault.file), f"line {fault.line}: " if fault.line else ""
    for folder in folders:
        if file.is_relative_to(folder):
            return f"files.{file.relative_to(folder).as_posix()}", where + fault.reason
    return "files", fault.reason
