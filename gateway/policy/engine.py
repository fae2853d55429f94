"""Asks OPA a question and believes only a complete answer from a bundle that the gateway knows."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from gateway.http1 import Client, Http1Error, Response
from gateway.policy.lanes import LARGE_BYTES, Lanes
from gateway.values import Json

LARGEST_QUESTION = 256 << 10
"""Bytes. 4 MiB questions were seen to take OPA to 14.5 GB."""

_DEADLINE = 0.25
_RELOADING_DEADLINE = 1.0
_RELOAD_SECONDS = 10.0
_LINGER = 1.0
_LARGEST_ANSWER = 4 << 20
_HEAD = (
    b"POST /v1/data/%b?strict-builtin-errors=true&provenance=true HTTP/1.1\r\n"
    b"Host: opa\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


class EngineFault(Exception):
    """OPA gave no answer that may be believed; the message says why and may name policy files."""


class Revisions(Protocol):
    """What the engine must know of bundles; `gateway.policy.bundle_server` has it."""

    offered_at: float

    @property
    def revision(self) -> str | None: ...

    def digest_of(self, revision: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    result: Json
    bundle_digest: str
    """``sha256:<hex>`` of the bundle that answered."""


class Engine:
    """One attempt per question, within a deadline that includes the wait for a place."""

    def __init__(
        self,
        client: Client,
        revisions: Revisions,
        *,
        ready: Callable[[], bool],
        cores: int | None = None,
    ) -> None:
        self._client = client
        self._revisions = revisions
        self._ready = ready
        self._lanes = Lanes(2 * (cores or os.cpu_count() or 1))
        self._large: set[asyncio.Task[Response]] = set()
        self._answered: str | None = None

    async def ask(
        self, document: bytes, question: bytes, *, key: str, seconds: float | None = None
    ) -> EngineAnswer:
        """Return what `document` (``gateway/decision``) says of ``{"input": …}``.

        `key` is whose question it is; `seconds` replaces the deadline of a decision (250 ms).
        Raises `EngineFault`; nothing is ever asked twice.
        """
        if not self._ready():
            raise EngineFault("OPA is not running, or not on the current bundle")
        seconds = seconds or self._seconds()
        due = time.monotonic() + seconds
        if len(question) <= LARGE_BYTES:
            response = await self._send(document, question, key, due, due)
        else:
            response = await self._send_large(document, question, key, seconds)
        return self._believed(response.status, response.body)

    async def _send(
        self, document: bytes, question: bytes, key: str, place_due: float, due: float
    ) -> Response:
        size = len(question)
        try:
            await self._lanes.enter(key, size, place_due)
        except TimeoutError:
            raise EngineFault("no place to decide became free in time") from None
        try:
            return await self._client.request(
                _HEAD % (document, size), question, deadline=due, max_body=_LARGEST_ANSWER
            )
        except Http1Error as error:
            raise EngineFault(f"OPA did not answer: {error}") from error
        finally:
            self._lanes.leave(size)

    async def _send_large(
        self, document: bytes, question: bytes, key: str, seconds: float
    ) -> Response:
        """Keep the lane until OPA is done, even when the one who asked has given up.

        OPA goes on reading a large input whose connection is closed; giving the lane away then
        would let it read many at once. Half the time is kept for the decision itself.
        """
        now = time.monotonic()
        sending = asyncio.create_task(
            self._send(document, question, key, now + seconds / 2, now + seconds + _LINGER)
        )
        self._large.add(sending)
        sending.add_done_callback(self._large_done)
        done, _ = await asyncio.wait([sending], timeout=seconds)
        if not done:
            raise EngineFault(f"OPA did not answer in {seconds:g} s")
        return sending.result()

    def _large_done(self, sending: "asyncio.Task[Response]") -> None:
        self._large.discard(sending)
        if not sending.cancelled():
            sending.exception()  # seen: nobody may be left to ask for it

    def _seconds(self) -> float:
        """A reload of thousands of policies stalls OPA for half a second, and is no failure."""
        revisions = self._revisions
        if self._answered == revisions.revision:
            return _DEADLINE
        reloading = time.monotonic() - revisions.offered_at < _RELOAD_SECONDS
        return _RELOADING_DEADLINE if reloading else _DEADLINE

    def _believed(self, status: int, body: bytes) -> EngineAnswer:
        try:
            answer = orjson.loads(body)
        except ValueError:
            raise EngineFault(f"OPA answered {status} with no JSON") from None
        if status != 200:
            raise EngineFault(f"OPA answered {status}: {body[:2000].decode('utf-8', 'replace')}")
        try:
            revision = answer["provenance"]["bundles"]["gateway"]["revision"]
            digest = self._revisions.digest_of(revision)
        except (KeyError, TypeError):
            raise EngineFault("OPA did not say which bundle answered") from None
        if digest is None:
            raise EngineFault(f"OPA answered from an unknown bundle, revision {revision}")
        self._answered = revision
        if "result" not in answer:
            raise EngineFault("the policy's answer is undefined")
        return EngineAnswer(answer["result"], digest)
