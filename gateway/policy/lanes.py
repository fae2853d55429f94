"""Bounds how many decisions OPA works on at once, and shares them out fairly by key."""

import asyncio
from collections import OrderedDict, deque
from time import monotonic

LARGE_BYTES = 32 << 10
"""Inputs over this size go one at a time: a big one costs as much as hundreds of ordinary ones."""


class Lane:
    """`width` places. Who waits is served round-robin by key, not in the order of arrival.

    A key with a thousand calls waiting delays another key's call by one place, not by a thousand.
    """

    def __init__(self, width: int) -> None:
        self._free = width
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def enter(self, key: str, deadline: float) -> None:
        """Take a place by `deadline` (`time.monotonic()`). Raises TimeoutError."""
        if self._free and not self._waiting:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        late = loop.call_later(deadline - monotonic(), _give_up, turn)
        try:
            await turn
        except BaseException:
            # The place may have been given in the very moment that the wait was given up.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            else:
                self._forget(key, turn)
            raise
        finally:
            late.cancel()

    def leave(self) -> None:
        """Give the place to the next key that waits, or put it back."""
        while self._waiting:
            key, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[key] = turns  # behind every other key
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, key: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(key)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[key]


def _give_up(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())


class Lanes:
    """The lane of all decisions, and in front of it the narrow one of large inputs."""

    def __init__(self, width: int) -> None:
        self._all = Lane(width)
        self._large = Lane(1)

    async def enter(self, key: str, size: int, deadline: float) -> None:
        """Take a place for an input of `size` bytes, as `Lane.enter` does."""
        if size <= LARGE_BYTES:
            await self._all.enter(key, deadline)
            return
        await self._large.enter(key, deadline)
        try:
            await self._all.enter(key, deadline)
        except BaseException:
            self._large.leave()
            raise

    def leave(self, size: int) -> None:
        """Give back what `enter` took for an input of `size` bytes."""
        self._all.leave()
        if size > LARGE_BYTES:
            self._large.leave()
