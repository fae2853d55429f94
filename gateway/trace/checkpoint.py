"""Signed heads of the log: made, stored, and held against the log when it is opened.

A log never signs a smaller size than before, nor another root for a size that it has signed: the
table is asked in the same transaction. What is signed is in the table and, once a minute and at
the end, in a file of its own, which an operator puts on another disk: a database that was put back
from a copy is behind one of them. Such a log is sealed as it is, and a successor goes on.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.keyring import Keyring
from gateway.store import tables
from gateway.store.writer import Writer, WriterStopped
from gateway.trace import heads, note
from gateway.trace.log import LOG_ITSELF, Head, Log, stored_hashes
from gateway.trace.merkle import roots
from gateway.trace.note import Checkpoint, NoteFault, VerifierKey
from gateway.trace.record import Draft, Field

_TAIL = 64 * 1024
_EVERY_SECONDS = 1.0
_PUBLISH_SECONDS = 60.0

_c = tables.checkpoints.c
_log = structlog.get_logger(__name__)


@frozen
class Signed:
    """A checkpoint as it is stored."""

    log: int
    checkpoint: Checkpoint
    note: str
    ts: str


def latest(connection: Connection, number: int | None = None) -> Signed | None:
    """The newest checkpoint of a log, of the newest log without a number; None before the first."""
    if number is None:
        number = connection.execute(select(func.max(tables.logs.c.log))).scalar_one()
    query = select(tables.checkpoints).where(_c.log == number).order_by(_c.size.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _signed(row)


def newest(connection: Connection) -> list[Signed]:
    """The newest checkpoint of every log that has one, oldest log first; all of one moment."""
    last = select(_c.log, func.max(_c.size).label("size")).group_by(_c.log).subquery()
    of = and_(_c.log == last.c.log, _c.size == last.c.size)
    query = select(tables.checkpoints).join(last, of).order_by(_c.log)
    return [_signed(row) for row in connection.execute(query)]


def at(connection: Connection, number: int, size: int) -> Signed | None:
    """The checkpoint of exactly this size, if it was kept."""
    query = select(tables.checkpoints).where(_c.log == number, _c.size == size)
    row = connection.execute(query).first()
    return None if row is None else _signed(row)


def _signed(row: Row[Any]) -> Signed:
    return Signed(row.log, note.parse(row.note.rpartition("\n\n")[0] + "\n"), row.note, row.ts)


class Checkpoints:
    """Makes checkpoints of one `Log`. Its methods run inside the writer's transactions."""

    def __init__(self, log: Log, keyring: Keyring, outside: Path | None) -> None:
        """``outside`` is the file off the database, None for none."""
        self._log = log
        self._key = keyring.log
        self._outside = outside
        self._last: Signed | None = None
        self._sealed = ""
        self.outside_fault = ""
        """Why the file off the database was not written; empty when it was."""

    @property
    def public(self) -> bytes:
        """The key that all logs of the deployment are signed with."""
        return VerifierKey.of(self._log.origin, self._key).public

    @property
    def verifier_key(self) -> str:
        """What an auditor trusts, as C2SP spells it; of the log in use."""
        return str(VerifierKey.of(self._log.origin, self._key))

    @property
    def position(self) -> tuple[int, int]:
        """The log in use and its durable records."""
        return self._log.number, self._log.size

    def make(self, connection: Connection, *, keep: bool = False) -> Signed | None:
        """Sign the log's head, unless it is signed already; None for an empty log.

        With ``keep`` the row stays for good, as for a head that is anchored. When the database is
        not where memory is, nothing is signed: the log is sealed and its successor's is returned.
        """
        head = self._log.head
        if head.size == 0:
            return None
        before = latest(connection, head.number)
        why = _behind_memory(connection, head, self._last, before) or _contradicts(before, head)
        if why:
            self._succeed(connection, why)
            head, before = self._log.head, None
        if before is not None and before.checkpoint.size == head.size:
            if keep:
                connection.execute(update(tables.checkpoints).where(*_is(before)).values(kept=True))
            return before
        return self._store(connection, head, before, keep)

    def before_anchor(self, connection: Connection) -> Signed:
        """Append the `heads` record and sign the head that an anchor then names."""
        self._log.append(connection, heads.drafts(connection, self._log))
        signed = self.make(connection, keep=True)
        assert signed is not None
        return signed

    def open(self, connection: Connection) -> str:
        """Hold the log against what was signed of it, before anything is appended; then say in it
        who goes on with it, where that is another process than before.

        Returns why it was sealed, and is empty when all agrees.
        """
        logs = tables.logs.c
        sealed = select(logs.origin, logs.sealed_reason).where(logs.sealed_at.is_not(None))
        for row in connection.execute(sealed.order_by(logs.log)):
            self._sealed = f"{row.origin}: {row.sealed_reason}"
        why = self._log.damage or self._disagrees(connection)
        if why:
            self._succeed(connection, why)
        self._begin(connection)
        return why

    def _begin(self, connection: Connection) -> None:
        slot = self._log.slot
        if slot.former:
            told: dict[str, Field] = {"former": slot.former, "by": slot.holder, "anchor": "urgent"}
            fields = {"slot": slot.number, "epoch": slot.epoch, **told}
            self._append("takeover", connection, fields)
        if slot.number:
            self.begin_log(connection)

    def begin_log(self, connection: Connection) -> None:
        """Give an empty log its first record, which names its key and all other logs."""
        if self._log.head.size:
            return
        slot = self._log.slot
        fields: dict[str, Field] = {
            "slot": slot.number,
            "epoch": slot.epoch,
            "key": str(VerifierKey.of(self._log.head.origin, self._key)),
            "logs": heads.lines(connection, self._log),
        }
        self._append("genesis", connection, fields)
        self.make(connection)  # at once: a log without a signed head is in no bundle

    def _append(self, kind: str, connection: Connection, fields: dict[str, Field]) -> None:
        self._log.append(connection, [Draft(kind, new_id("evt"), LOG_ITSELF, fields)])

    def seal(self, connection: Connection, number: int, why: str) -> None:
        """Seal the log, which somebody outside knows otherwise; none but the one in use."""
        if number == self._log.head.number:
            self._succeed(connection, why)

    def warnings(self) -> dict[str, str]:
        """What an operator has to know, for readiness; empty when all is well."""
        found = {"sealed log": self._sealed, "checkpoint file": self.outside_fault}
        return {name: why for name, why in found.items() if why}

    def durable(self, signed: Signed) -> None:
        """The transaction that made it is on disk: what is behind it later was put back."""
        if self._last is None or _order(self._last) < _order(signed):
            self._last = signed

    def publish(self, signed: Signed) -> None:
        """Append a durable checkpoint to the file off the database. Blocks; never raises."""
        if self._outside is None:
            return
        line = json.dumps({"ts": signed.ts, "note": signed.note}, ensure_ascii=False) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            fd = os.open(self._outside, flags, 0o600)
            with os.fdopen(fd, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as fault:
            self.outside_fault = f"{self._outside}: {fault.strerror}"
            _log.error("the checkpoint file cannot be written", why=self.outside_fault)
        else:
            self.outside_fault = ""

    # --- what was signed, against what is there ---

    def _disagrees(self, connection: Connection) -> str:
        head = self._log.head
        key = VerifierKey.of(head.origin, self._key)
        signed = latest(connection, head.number)
        if signed is not None:
            try:
                stored = note.checkpoint(signed.note, key)
            except NoteFault as fault:
                return f"the last checkpoint is not this log's: {fault}"
            if why := _differs(connection, head, stored, "the last checkpoint"):
                return why
        outside = self._last_outside(key)
        if outside is None:
            return ""
        return _differs(connection, head, outside, "the checkpoint file")

    def _last_outside(self, key: VerifierKey) -> Checkpoint | None:
        """The newest checkpoint of this log in the file; what others wrote there is passed over."""
        for line in reversed(self._outside_lines()):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, NoteFault):
                return note.checkpoint(json.loads(line)["note"], key)
        return None

    def _outside_lines(self) -> Sequence[bytes]:
        if self._outside is None:
            return []
        try:
            with self._outside.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return file.read().splitlines()
        except FileNotFoundError:
            return []
        except OSError as fault:
            self.outside_fault = f"{self._outside}: {fault.strerror}"
            _log.error("the checkpoint file cannot be read", why=self.outside_fault)
            return []

    def _succeed(self, connection: Connection, why: str) -> None:
        sealed = self._log.head
        self._log.succeed(connection, why)
        origin = self._log.head.origin
        self._sealed = f"{sealed.origin}: {why}"
        _log.error("the log is sealed; a successor goes on", log=sealed.origin, to=origin, why=why)

    def _store(
        self, connection: Connection, head: Head, before: Signed | None, keep: bool
    ) -> Signed:
        checkpoint = Checkpoint(head.origin, head.size, head.root)
        signed = Signed(head.number, checkpoint, note.sign(checkpoint, self._key), self._log.now)
        if before is not None and before.ts[:16] == signed.ts[:16]:
            thinned = delete(tables.checkpoints).where(*_is(before), _c.kept.is_(False))
            connection.execute(thinned)
        connection.execute(
            insert(tables.checkpoints).values(
                log=head.number,
                size=head.size,
                root=head.root,
                note=signed.note,
                ts=signed.ts,
                kept=keep,
            )
        )
        return signed


class Signing:
    """Signs the log's head each second in which it grew, and whenever somebody needs it now."""

    def __init__(self, writer: Writer, checkpoints: Checkpoints) -> None:
        self._writer = writer
        self._checkpoints = checkpoints
        self._signed: Signed | None = None
        self._published: Signed | None = None
        self._publish_at = 0.0

    @property
    def public(self) -> bytes:
        """The key that checkpoints are signed with."""
        return self._checkpoints.public

    async def now(self) -> Signed | None:
        """The head as it is at this moment, signed; None for an empty log."""
        await self._sign()
        return self._signed

    async def before_anchor(self) -> Signed:
        """Sign the head for an anchor: durable, kept for good, and in the checkpoint file."""
        signed = await asyncio.shield(self._writer.change(self._checkpoints.before_anchor))
        self._take(signed)
        await self._publish(signed)
        return signed

    async def seal(self, number: int, why: str) -> None:
        """Seal a log that an anchor knows otherwise; its successor goes on."""
        await asyncio.shield(self._writer.change(lambda c: self._checkpoints.seal(c, number, why)))

    async def run(self) -> None:
        """Until cancelled. What fails is tried again a second later; the writer has logged it."""
        while True:
            with contextlib.suppress(SQLAlchemyError, WriterStopped, OSError):
                await self._sign()
                if self._signed is not None and time.monotonic() >= self._publish_at:
                    await self._publish(self._signed)
            await asyncio.sleep(_EVERY_SECONDS)

    async def close(self) -> None:
        """Sign and publish what the last second brought."""
        with contextlib.suppress(SQLAlchemyError, WriterStopped, OSError):
            await self._sign()
            if self._signed is not None:
                await self._publish(self._signed)

    async def _sign(self) -> None:
        if self._signed is None or _order(self._signed) != self._checkpoints.position:
            signed = await asyncio.shield(self._writer.change(self._checkpoints.make))
            if signed is not None:
                self._take(signed)

    def _take(self, signed: Signed) -> None:
        self._checkpoints.durable(signed)
        self._signed = signed

    async def _publish(self, signed: Signed) -> None:
        if signed != self._published:
            self._publish_at = time.monotonic() + _PUBLISH_SECONDS
            await asyncio.to_thread(self._checkpoints.publish, signed)
            self._published = signed


def _is(signed: Signed) -> tuple[Any, Any]:
    return _c.log == signed.log, _c.size == signed.checkpoint.size


def _order(signed: Signed) -> tuple[int, int]:
    return signed.log, signed.checkpoint.size


def _behind_memory(
    connection: Connection, head: Head, last: Signed | None, before: Signed | None
) -> str:
    if last is not None and last.log == head.number:
        stored = 0 if before is None else before.checkpoint.size
        if stored < last.checkpoint.size:
            signed = last.checkpoint.size
            return f"the database's last checkpoint is of {stored} records, {signed} were signed"
    t = tables.trace.c
    last = connection.execute(select(func.max(t.idx)).where(t.log == head.number)).scalar()
    stored = 0 if last is None else last + 1
    if stored == head.size:
        return ""
    return f"the database holds {stored} records of {head.size} that were written to it"


def _contradicts(before: Signed | None, head: Head) -> str:
    if before is None or before.checkpoint.size < head.size:
        return ""
    if before.checkpoint.size == head.size and before.checkpoint.root == head.root:
        return ""
    return f"a checkpoint of {before.checkpoint.size} records says otherwise than the tree"


def _differs(connection: Connection, head: Head, signed: Checkpoint, where: str) -> str:
    if signed.size > head.size:
        return f"the database holds {head.size} records, {where} has signed {signed.size}"
    try:
        root = roots(stored_hashes(connection, head.number))(0, signed.size)
    except ValueError as fault:
        return str(fault)
    if root == signed.root:
        return ""
    return f"the first {signed.size} records are not those that {where} has signed"
