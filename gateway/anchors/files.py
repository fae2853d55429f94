"""A file or a folder off the machine as an anchor: append-only storage that others look after.

In a folder every head is a file of its own, made once and never opened for writing again, which
suits a bucket with object lock; a file gets a line for each.
"""

import json
import os
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from gateway.anchors.values import (
    Anchor,
    AnchorFault,
    Condition,
    Final,
    Head,
    Progress,
    Receipt,
    Waiting,
)
from gateway.clock import Clock

_RETRY = 30.0
_FORK_RETRY = 60.0


class Files:
    """Writes checkpoints as they were signed."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def close(self) -> None:
        pass

    async def advance(self, anchor: Anchor) -> Progress:
        try:
            await anyio.to_thread.run_sync(self._write, anchor.head)
        except OSError as error:
            return Waiting(
                Condition.UNREACHABLE, f"cannot write {self._path}: {error.strerror}", _RETRY
            )
        except AnchorFault as fault:
            return Waiting(fault.condition, str(fault), _FORK_RETRY)
        return Final(Receipt(at=self._clock.now()))

    def _write(self, head: Head) -> None:
        if self._path.is_dir():
            self._write_file(head)
        else:
            self._append(head)

    def _write_file(self, head: Head) -> None:
        log = sha256(head.origin.encode()).hexdigest()[:16]
        path = self._path / f"{log}-{head.size:020d}.checkpoint"
        note = head.note.encode()
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            there = path.read_bytes()
            if there == note:
                return
            if not note.startswith(there):  # else: it was written in part, and then we died
                raise AnchorFault(
                    Condition.FORK, f"{path} holds another checkpoint of {head.size} records"
                ) from None
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        _put(fd, note)
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _append(self, head: Head) -> None:
        """At least once: a crash between writing and noting it leaves the line twice."""
        line = {"ts": self._clock.now(), "log": head.origin, "size": head.size, "note": head.note}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        _put(
            os.open(self._path, flags, 0o644),
            json.dumps(line, ensure_ascii=False).encode() + b"\n",
        )


def _put(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
