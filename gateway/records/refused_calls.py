"""Refused calls in the trace: each one, up to a rate per key; beyond it a count per minute.

Someone who hammers a closed door must not be able to fill the disk. What is over the rate is
counted per key, reason and minute and written as one record when the minute is over; a crash
loses at most that minute's counts. Malformed messages of good keys are recorded the same way.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gateway.edge import TokenBuckets
from gateway.ids import new_id
from gateway.records.calls import refusal_draft
from gateway.refusals import Refused
from gateway.store.writer import Writer
from gateway.trace.log import Appended, Log
from gateway.trace.record import Draft
from gateway.values import Call, Caller, Decision, KeyId, ProjectId

RATE = 20.0
"""Single records of refusals per second and key."""
BURST = 100.0


@dataclass(slots=True)
class _Count:
    record_id: str
    count: int


_Counted = tuple[str, ProjectId, KeyId, str, str]
"""Kind, project, key, reason, minute."""


def bounded() -> TokenBuckets:
    """One door's rate of single records."""
    return TokenBuckets(per_second=RATE, burst=BURST)


class RefusedCalls:
    def __init__(self, writer: Writer, log: Log, now: Callable[[], str]) -> None:
        self._writer = writer
        self._log = log
        self._now = now
        self._rate = bounded()
        self._counts: dict[_Counted, _Count] = {}

    async def record(self, call: Call, refused: Refused) -> str:
        """Write the refusal down and return the id of its record. Raises what the writer raises.

        ``refused.leaf`` is set when the record is the call's own.
        """
        key = call.caller.key
        if not self._single(key.id):
            return self.count(call, refused)
        decision = refused.decided if isinstance(refused.decided, Decision) else None
        draft = refusal_draft(call, refused, decision)
        appended: Appended = await self._writer.submit(self._append, draft)
        refused.leaf = appended.leaf
        return call.id

    def count(self, call: Call, refused: Refused) -> str:
        """Count a refusal that admission did not write, and return the id of its count's record."""
        key = call.caller.key
        return self._count("refused", key.project_id, key.id, refused.reason)

    async def reject(self, caller: Caller, code: int) -> None:
        """A message of a good key that could not be read: the code, no payload."""
        key = caller.key
        if not self._single(key.id):
            self._count("rejected", key.project_id, key.id, str(code))
            return
        draft = Draft(
            kind="rejected",
            id=new_id("trc"),
            project_id=key.project_id,
            fields={"key": key.id, "server": caller.server.id, "reason_code": str(code)},
        )
        await self._writer.submit(self._append, draft)

    async def message(self, caller: Caller, draft: Draft, refused: Refused | None) -> str:
        """Write down a decision about a message, and return the id of its record."""
        key = caller.key
        if refused is not None and not self._single(key.id):
            return self._count("refused", key.project_id, key.id, refused.reason)
        await self._writer.submit(self._append, draft)
        return draft.id

    def probe(self, project_id: ProjectId, key_id: KeyId, action: str) -> None:
        """A decision that was asked for and not acted on."""
        self._count("probe", project_id, key_id, action)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the counts of minutes that are over; call it every few seconds, and at the end.

        What cannot be written now is kept for the next time.
        """
        minute = self._now()[:16]
        for key in [key for key in self._counts if everything or key[4] < minute]:
            count = self._counts.pop(key)
            writing = self._writer.submit(self._append, _count_draft(key, count))
            await asyncio.wait([writing])
            if writing.exception() is not None:
                self._counts.setdefault(key, _Count(count.record_id, 0)).count += count.count
                return

    def _append(self, connection: Connection, drafts: Sequence[Draft]) -> list[Appended]:
        return self._log.append(connection, drafts)

    def _single(self, key_id: KeyId) -> bool:
        return self._rate.take(key_id) == 0

    def _count(self, kind: str, project_id: ProjectId, key_id: KeyId, reason: str) -> str:
        key = (kind, project_id, key_id, reason, self._now()[:16])
        count = self._counts.setdefault(key, _Count(new_id("trc"), 0))
        count.count += 1
        return count.record_id


def _count_draft(key: _Counted, count: _Count) -> Draft:
    kind, project_id, key_id, reason, minute = key
    return Draft(
        kind=kind,
        id=count.record_id,
        project_id=project_id,
        fields={"key": key_id, "reason_code": reason, "minute": minute, "count": count.count},
    )
