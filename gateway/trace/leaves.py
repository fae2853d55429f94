"""Every leaf hash of a log, read once beside its records: a million of them are not kept."""

from collections.abc import Iterator

from gateway.trace.merkle import Frontier
from gateway.trace.note import Checkpoint
from gateway.trace.verdicts import Check

_NAME = "completeness"


class AllLeaves:
    """``leaves.bin`` of one log; `meet` is told each record in order, then `check` is asked."""

    def __init__(self, leaves: Iterator[bytes] | None) -> None:
        self._leaves = leaves
        self._frontier = Frontier()
        self._last = b""
        self._fault = ""

    def meet(self, index: int, leaf: bytes) -> None:
        """A record that comes late (out of order, twice) is a fault that is told elsewhere."""
        if self._leaves is None or self._fault or index < self._frontier.size - 1:
            return
        self._read(index + 1)
        if self._frontier.size == index + 1 and self._last != leaf:
            self._fault = f"leaf {index} is not that of the record"

    def check(self, head: Checkpoint) -> Check:
        if self._leaves is None:
            return Check(_NAME, "SKIP", "the bundle has no leaves.bin")
        self._read(None)
        size, root = self._frontier.size, self._frontier.root()
        if not self._fault and (size, root) != (head.size, head.root):
            self._fault = f"{size} leaf hashes do not make the root of {head.size} records"
        if self._fault:
            return Check(_NAME, "FAIL", self._fault)
        return Check(_NAME, "PASS", f"{head.size} leaf hashes = root")

    def _read(self, size: int | None) -> None:
        """Go on until there are so many, or to the end."""
        assert self._leaves is not None
        while not self._fault and (size is None or self._frontier.size < size):
            leaf = next(self._leaves, None)
            if leaf is None:
                return
            if len(leaf) != 32:
                self._fault = "leaves.bin ends within a hash"
                return
            self._last = leaf
            self._frontier.add(leaf, _forget)


def _forget(*_: object) -> None:
    """Of tiles nothing is kept."""
