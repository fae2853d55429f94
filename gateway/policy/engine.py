"""Asks OPA a question and believes only a complete answer from a bundle that the gateway knows."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import orjson

from gateway.frozen import frozen
from gateway.http1.client import Client, Http1Error, Response
from gateway.policy.lanes import GROUP_BYTES, LARGE_BYTES, Lanes, Load, Told, Turn
from gateway.values import Json

LARGEST_QUESTION = 256 << 10
"""Bytes. 4 MiB questions were seen to take OPA to 14.5 GB."""

DECISION = b"gateway/decision"
_GROUP = b"gateway/group/decisions"
_INPUT = b'{"input":'

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


@frozen
class EngineAnswer:
    result: Json
    bundle_digest: str
    """``sha256:<hex>`` of the bundle that answered."""


class Engine:
    """One attempt per question, within `seconds`, which include the wait for a place."""

    def __init__(
        self,
        client: Client,
        revisions: Revisions,
        *,
        ready: Callable[[], bool],
        seconds: float = 0.25,
        cores: int | None = None,
    ) -> None:
        self._client = client
        self._revisions = revisions
        self._ready = ready
        self._deadline = seconds
        # Fewer at once, and more go together: that costs OPA less, and no call waits longer.
        self._lanes = Lanes(max(2, cores or os.cpu_count() or 1))
        self._large: set[asyncio.Task[Response]] = set()
        self._groups: set[asyncio.Task[EngineAnswer | EngineFault]] = set()
        self._answered: str | None = None

    async def ask(
        self, document: bytes, question: bytes, *, key: str, seconds: float | None = None
    ) -> EngineAnswer:
        """Return what `document` (``gateway/decision``) says of ``{"input": …}``.

        `key` is whose question it is; `seconds` replaces the deadline of a decision.
        Raises `EngineFault`; nothing is ever asked twice.
        """
        self._check_ready()
        seconds = seconds or self._seconds()
        due = time.monotonic() + seconds
        if len(question) <= LARGE_BYTES:
            response = await self._send(document, question, key, due, due)
        else:
            response = await self._send_large(document, question, key, seconds)
        return self._believed(response.status, response.body)

    async def decide(
        self, question: bytes, *, key: str, project: str, common: int = 0
    ) -> EngineAnswer:
        """Ask `data.gateway.decision`. Questions of one project that wait together go together.

        ``question`` begins with ``{"input":``; its first ``common`` bytes end with a member of the
        input and are said once to OPA where several questions of a group begin with them. Raises
        `EngineFault`. A group that OPA does not answer whole is asked one by one, so that no
        question shares another's fault.
        """
        if len(question) > GROUP_BYTES:
            return await self.ask(DECISION, question, key=key)
        self._check_ready()
        due = time.monotonic() + self._seconds()
        load = Load(project, question, common)
        try:
            given = await self._lanes.enter(key, len(question), due, load)
        except TimeoutError:
            raise EngineFault("no place to decide became free in time") from None
        if isinstance(given, Told):
            return _told(given.answer)
        if given.companions:
            # In a task: the leader's caller may hang up, and the others must be told all the same.
            group = asyncio.create_task(self._ask_group(load, given.companions, due))
            self._groups.add(group)
            group.add_done_callback(self._groups.discard)
            return _told(await asyncio.shield(group))
        try:
            return await self._ask_one(question, due)
        finally:
            self._lanes.leave(len(question))

    async def _ask_one(self, question: bytes, due: float) -> EngineAnswer:
        response = await self._request(DECISION, question, due)
        return self._believed(response.status, response.body)

    async def _ask_group(
        self, load: Load, companions: tuple[Turn, ...], due: float
    ) -> EngineAnswer | EngineFault:
        """Tell every companion its answer or fault, and return the leader's."""
        loads = [load, *(turn.load for turn in companions if turn.load)]
        answers: list[EngineAnswer | EngineFault] = []
        try:
            answers = await self._together(loads, due)
        finally:
            self._lanes.leave(len(load.question))
            gone = EngineFault("the gateway is shutting down")
            for place, turn in enumerate(companions, 1):
                turn.tell(answers[place] if answers else gone)
        return answers[0]

    async def _together(self, loads: list[Load], due: float) -> list[EngineAnswer | EngineFault]:
        try:
            response = await self._request(_GROUP, _group_question(loads), due)
        except EngineFault as fault:
            return [fault] * len(loads)
        try:
            return self._each(self._believed(response.status, response.body), len(loads))
        except EngineFault:
            return [await self._or_fault(load.question, due) for load in loads]

    async def _or_fault(self, question: bytes, due: float) -> EngineAnswer | EngineFault:
        try:
            return await self._ask_one(question, due)
        except EngineFault as fault:
            return fault

    def _each(self, answer: EngineAnswer, count: int) -> list[EngineAnswer | EngineFault]:
        results = answer.result
        if not isinstance(results, dict) or len(results) != count:
            raise EngineFault("OPA did not answer every question of a group")
        try:
            return [
                EngineAnswer(results[str(place)], answer.bundle_digest) for place in range(count)
            ]
        except KeyError:
            raise EngineFault("OPA did not answer every question of a group") from None

    def _check_ready(self) -> None:
        if not self._ready():
            raise EngineFault("OPA is not running, or not on the current bundle")

    async def _send(
        self, document: bytes, question: bytes, key: str, place_due: float, due: float
    ) -> Response:
        size = len(question)
        try:
            await self._lanes.enter(key, size, place_due)
        except TimeoutError:
            raise EngineFault("no place to decide became free in time") from None
        try:
            return await self._request(document, question, due)
        finally:
            self._lanes.leave(size)

    async def _request(self, document: bytes, question: bytes, due: float) -> Response:
        try:
            return await self._client.request(
                _HEAD % (document, len(question)), question, deadline=due, max_body=_LARGEST_ANSWER
            )
        except Http1Error as error:
            raise EngineFault(f"OPA did not answer: {error}") from error

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
            return self._deadline
        reloading = time.monotonic() - revisions.offered_at < _RELOAD_SECONDS
        return max(_RELOADING_DEADLINE, self._deadline) if reloading else self._deadline

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


def _told(answer: object) -> EngineAnswer:
    if isinstance(answer, EngineAnswer):
        return answer
    assert isinstance(answer, EngineFault)
    # Each who is told raises one of its own: a raised exception collects its raiser's stack.
    raise EngineFault(str(answer))


def _group_question(loads: list[Load]) -> bytes:
    """The bytes of each input, as they are, side by side; what several begin with is said once."""
    begins = Counter(load.question[: load.common] for load in loads if load.common)
    several = (begin for begin, times in begins.items() if times > 1)
    places = {begin: place for place, begin in enumerate(several)}
    calls = []
    for number, load in enumerate(loads):
        question = load.question
        place = places.get(question[: load.common])
        if place is None:
            calls.append(b'{"id":"%d","input":%b}' % (number, question[len(_INPUT) : -1]))
        else:
            own = question[load.common + 1 : -2]
            calls.append(b'{"id":"%d","shared":%d,"own":{%b}}' % (number, place, own))
    shared = b",".join(b"%b}" % begin[len(_INPUT) :] for begin in places)
    return b'{"input":{"shared":[%b],"calls":[%b]}}' % (shared, b",".join(calls))
