"""Evidence that is being written: how far it is, for whoever asked for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Making:
    """In memory: what was being made when the process died is gone with its file."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[int, int]] = {}

    def of(self, who: str) -> tuple[int, int] | None:
        """Records that are read, and of how many; None when nothing is made for them."""
        return self._read.get(who)

    @contextmanager
    def one(self, who: str) -> Iterator[Callable[[int, int], None]]:
        """Give what is to be told how far it is."""
        self._read[who] = (0, 0)

        def told(read: int, of: int) -> None:
            self._read[who] = (read, of)

        try:
            yield told
        finally:
            self._read.pop(who, None)
