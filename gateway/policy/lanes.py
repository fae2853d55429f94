"""Bounds how many decisions OPA works on at once, and shares them out fairly by key.

Who gets a place takes along others that wait: their questions go to OPA in one request, which
costs far less than one request each.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from time import monotonic

from gateway.frozen import frozen

LARGE_BYTES = 32 << 10
"""Inputs over this size go one at a time: a big one costs as much as hundreds of ordinary ones."""
GROUP_CALLS = 16
GROUP_BYTES = 32 << 10
"""One request holds at most so many questions, and so many bytes of them."""


@frozen
class Load:
    """A question that may go along with others of its project."""

    project: str
    question: bytes
    common: int = 0
    """How many bytes of the question another may begin with too; they end with a whole member."""


@dataclass(slots=True, eq=False)
class Turn:
    """Someone who waits. `given` becomes `Place`, or `Told` by whoever took the question along."""

    key: str
    load: Load | None
    given: "asyncio.Future[Place | Told]"

    def tell(self, answer: object) -> None:
        """Give the answer to a question that was taken along."""
        if not self.given.done():
            self.given.set_result(Told(answer))


@frozen
class Place:
    """The right to ask, until `leave`; and whose questions go along and must be told."""

    companions: tuple[Turn, ...] = ()


@frozen
class Told:
    """The answer, asked by another; there is no place to give back."""

    answer: object


_ALONE = Place()


class Lane:
    """`width` places. Who waits is served round-robin by key, not in the order of arrival.

    A key with a thousand calls waiting delays another key's call by one place, not by a thousand.
    Who finds a place waits for the end of the loop's turn all the same where it may have company:
    a request costs OPA as much as two questions do.
    """

    def __init__(self, width: int) -> None:
        self._free = width
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._gathering = False

    async def enter(self, key: str, deadline: float, load: Load | None = None) -> Place | Told:
        """Take a place by `deadline` (`time.monotonic()`). Raises TimeoutError."""
        if load is None and self._free and not self._waiting:
            self._free -= 1
            return _ALONE
        loop = asyncio.get_running_loop()
        if self._free and not self._gathering:
            self._gathering = True
            loop.call_soon(self._gathered)
        turn = Turn(key, load, loop.create_future())
        self._waiting.setdefault(key, deque()).append(turn)
        late = loop.call_later(deadline - monotonic(), _give_up, turn)
        try:
            return await turn.given
        except BaseException:
            self._abandon(turn)
            raise
        finally:
            late.cancel()

    def leave(self) -> None:
        """Give the place to the next key that waits, or put it back."""
        if not self._give():
            self._free += 1

    def _gathered(self) -> None:
        self._gathering = False
        while self._free and self._give():
            self._free -= 1

    def _give(self) -> bool:
        """Give a place to the next key that waits, with its company; False when nobody does."""
        while self._waiting:
            turn = self._next()
            if not turn.given.done():
                turn.given.set_result(Place(self._companions(turn)))
                return True
        return False

    def _next(self) -> Turn:
        key, turns = self._waiting.popitem(last=False)
        turn = turns.popleft()
        if turns:
            self._waiting[key] = turns  # behind every other key
        return turn

    def _companions(self, leader: Turn) -> tuple[Turn, ...]:
        """Who goes along: the next in the round, as long as they fit."""
        if leader.load is None:
            return ()
        taken: list[Turn] = []
        size = len(leader.load.question)
        while self._waiting and len(taken) + 1 < GROUP_CALLS:
            load = next(iter(self._waiting.values()))[0].load
            if load is None or load.project != leader.load.project:
                break
            size += len(load.question)
            if size > GROUP_BYTES:
                break
            turn = self._next()
            if not turn.given.done():
                taken.append(turn)
        return tuple(taken)

    def _abandon(self, turn: Turn) -> None:
        """Whoever waited waits no more: it gave up, or its task was cancelled."""
        given = turn.given
        if not given.done() or given.cancelled() or given.exception() is not None:
            self._forget(turn)
            return
        place = given.result()
        if isinstance(place, Place):
            # Given in the very moment that the wait was given up: nobody will ask for them.
            for companion in reversed(place.companions):
                self._waiting.setdefault(companion.key, deque()).appendleft(companion)
            self.leave()

    def _forget(self, turn: Turn) -> None:
        turns = self._waiting.get(turn.key)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[turn.key]


def _give_up(turn: Turn) -> None:
    if not turn.given.done():
        turn.given.set_exception(TimeoutError())


class Lanes:
    """The lane of all decisions, and in front of it the narrow one of large inputs."""

    def __init__(self, width: int) -> None:
        self._all = Lane(width)
        self._large = Lane(1)

    async def enter(
        self, key: str, size: int, deadline: float, load: Load | None = None
    ) -> Place | Told:
        """Take a place for an input of `size` bytes, as `Lane.enter` does."""
        if size <= LARGE_BYTES:
            return await self._all.enter(key, deadline, load)
        await self._large.enter(key, deadline)
        try:
            return await self._all.enter(key, deadline)
        except BaseException:
            self._large.leave()
            raise

    def leave(self, size: int) -> None:
        """Give back what `enter` took for an input of `size` bytes."""
        self._all.leave()
        if size > LARGE_BYTES:
            self._large.leave()
