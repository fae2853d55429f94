"""A file or a folder off the machine as an anchor: append-only storage that others look after.

In a folder every head is a file of its own, made once and never opened for writing again, which
suits a bucket with object lock; a file gets a line for each.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import anyio.to_thread

from gateway.anchors.values import (
    Anchor,
    AnchorFault,
    Condition,
    Final,
    Head,
    Known,
    Progress,
    Receipt,
    Waiting,
)
from gateway.clock import Clock
from gateway.trace import note
from gateway.trace.note import NoteFault, VerifierKey

_RETRY = 30.0
_FORK_RETRY = 60.0
_TAIL = 256 * 1024
"""Bytes at the end of a file that are looked through."""


class Files:
    """Writes checkpoints as they were signed."""

    def __init__(self, path: Path, clock: Clock, public: bytes | None = None) -> None:
        """``public`` is the log's key: what it has not signed is passed over."""
        self._path = path
        self._clock = clock
        self._public = public

    def close(self) -> None:
        pass

    async def known(self, origin: str) -> Sequence[Known] | Waiting:
        """The largest head of the log that lies there."""
        try:
            return await anyio.to_thread.run_sync(self._largest, origin)
        except OSError as error:
            return Waiting(
                Condition.UNREACHABLE, f"cannot read {self._path}: {error.strerror}", _RETRY
            )

    def _largest(self, origin: str) -> Sequence[Known]:
        if self._public is None:
            return ()
        key = VerifierKey(origin, self._public)
        for text in self._notes(origin):
            with contextlib.suppress(NoteFault):
                head = note.checkpoint(text, key)
                return (Known(head.size, head.root),)
        return ()

    def _notes(self, origin: str) -> Iterator[str]:
        """Newest first."""
        if self._path.is_dir():
            for path in sorted(self._path.glob(f"{_id(origin)}-*.checkpoint"), reverse=True):
                yield path.read_text(errors="replace")
        elif self._path.exists():
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                lines = file.read().splitlines()
            for line in reversed(lines):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    yield str(json.loads(line)["note"])

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
        path = self._path / f"{_id(head.origin)}-{head.size:020d}.checkpoint"
        signed = head.note.encode()
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            there = path.read_bytes()
            if there == signed:
                return
            if not signed.startswith(there):  # else: it was written in part, and then we died
                raise AnchorFault(
                    Condition.FORK, f"{path} holds another checkpoint of {head.size} records"
                ) from None
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        _put(fd, signed)
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


def _id(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()[:16]


def _put(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
