"""The Merkle tree of RFC 6962, section 2.1 (SHA-256): hashes, the growing frontier, tiles. Pure."""

import hashlib
from collections.abc import Callable, Sequence

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""Leaves below one hash of tile level 1, as in C2SP tlog-tiles."""

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(body: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the perfect subtrees that make up the tree so far, largest first.

    Appending costs two hashes on average and log2(size) hashes of memory.
    """

    __slots__ = ("size", "subtrees")

    def __init__(self, size: int = 0, subtrees: Sequence[bytes] = ()) -> None:
        self.size = size
        self.subtrees = list(subtrees)

    def copy(self) -> "Frontier":
        return Frontier(self.size, self.subtrees)

    def add(self, leaf: bytes, on_tile: Callable[[int, int, bytes], None]) -> None:
        """Append a leaf; ``on_tile(level, n, hash)`` is told of each tile that became full."""
        position = self.size
        self.size += 1
        height = 0
        current = leaf
        while position & 1:
            current = node_hash(self.subtrees.pop(), current)
            position >>= 1
            height += 1
            if height % TILE_HEIGHT == 0:
                on_tile(height // TILE_HEIGHT, position, current)
        self.subtrees.append(current)

    def root(self) -> bytes:
        if not self.subtrees:
            return EMPTY_ROOT
        root = self.subtrees[-1]
        for left in reversed(self.subtrees[:-1]):
            root = node_hash(left, root)
        return root


def rebuild(size: int, hashes: Callable[[int, int, int], Sequence[bytes]]) -> Frontier:
    """The frontier of a tree of ``size`` leaves, from its tiles.

    ``hashes(level, start, count)`` returns stored hashes of a tile level; level 0 are the leaves.
    At most 255 hashes are read from each level, whatever the size. Raises ValueError when the
    store holds fewer than the size says.
    """
    subtrees: list[bytes] = []
    offset = 0
    for bit in range(size.bit_length() - 1, -1, -1):
        if not size >> bit & 1:
            continue
        level, count = bit // TILE_HEIGHT, 1 << bit % TILE_HEIGHT
        row = list(hashes(level, offset >> level * TILE_HEIGHT, count))
        if len(row) != count:
            raise ValueError(f"tree level {level} lacks hashes from {offset}: the log is damaged")
        while len(row) > 1:
            row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
        subtrees.append(row[0])
        offset += 1 << bit
    return Frontier(size, subtrees)
