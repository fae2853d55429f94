"""The Merkle tree of RFC 6962, section 2.1 (SHA-256): the growing frontier, tiles, proofs. Pure.

Needs the standard library alone, because whoever verifies evidence has nothing else.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""Leaves below one hash of tile level 1, as in C2SP tlog-tiles."""

EMPTY_ROOT = hashlib.sha256(b"").digest()


Hashes = Callable[[int, int, int], Sequence[bytes]]
"""``(level, start, count)``: stored hashes of a tile level; level 0 are the leaves."""


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

    def graft(self, root: bytes, on_tile: Callable[[int, int, bytes], None]) -> None:
        """Append a tile of 256 leaves of which only the root is known, to a tree of full tiles."""
        position = self.size >> TILE_HEIGHT
        self.size += TILE_WIDTH
        height = TILE_HEIGHT
        on_tile(1, position, root)
        while position & 1:
            root = node_hash(self.subtrees.pop(), root)
            position >>= 1
            height += 1
            if height % TILE_HEIGHT == 0:
                on_tile(height // TILE_HEIGHT, position, root)
        self.subtrees.append(root)

    def root(self) -> bytes:
        if not self.subtrees:
            return EMPTY_ROOT
        root = self.subtrees[-1]
        for left in reversed(self.subtrees[:-1]):
            root = node_hash(left, root)
        return root


def rebuild(size: int, hashes: Hashes) -> Frontier:
    """The frontier of a tree of ``size`` leaves, from its tiles.

    At most 255 hashes are read from each level, whatever the size. Raises ValueError when the
    store holds fewer than the size says.
    """
    subtrees: list[bytes] = []
    offset = 0
    for bit in range(size.bit_length() - 1, -1, -1):
        if size >> bit & 1:
            subtrees.append(_perfect(offset, bit, hashes))
            offset += 1 << bit
    return Frontier(size, subtrees)


def _perfect(start: int, height: int, hashes: Hashes) -> bytes:
    """The root over the 2^height leaves from ``start``, a multiple of their number."""
    level, count = height // TILE_HEIGHT, 1 << height % TILE_HEIGHT
    row = list(hashes(level, start >> level * TILE_HEIGHT, count))
    if len(row) != count:
        raise ValueError(f"tree level {level} lacks hashes from {start}: the log is damaged")
    while len(row) > 1:
        row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
    return row[0]


Root = Callable[[int, int], bytes]
"""``(start, end)``: MTH of these leaves, a subtree of the tree (RFC 6962, section 2.1)."""

_REMEMBERED_TILES = 64
_REMEMBERED_ROOTS = 1 << 15


def roots(hashes: Hashes) -> Root:
    """Asks the store tile by tile and remembers: the proofs of neighbours share nearly all."""

    @lru_cache(_REMEMBERED_TILES)
    def tile(level: int, n: int) -> Sequence[bytes]:
        return hashes(level, n << TILE_HEIGHT, TILE_WIDTH)

    @lru_cache(_REMEMBERED_ROOTS)
    def perfect(start: int, height: int) -> bytes:
        if height % TILE_HEIGHT:
            right = start + (1 << height - 1)
            return node_hash(perfect(start, height - 1), perfect(right, height - 1))
        level, n = height // TILE_HEIGHT, start >> height
        row = tile(level, n >> TILE_HEIGHT)
        if n % TILE_WIDTH >= len(row):
            raise ValueError(f"tree level {level} lacks hash {n}: the log is damaged")
        return row[n % TILE_WIDTH]

    def root(start: int, end: int) -> bytes:
        count = end - start
        if count == 0:
            return EMPTY_ROOT
        if count & (count - 1) == 0:
            return perfect(start, count.bit_length() - 1)
        middle = start + _split(count)
        return node_hash(root(start, middle), root(middle, end))

    return root


def _split(count: int) -> int:
    """The largest power of two that is smaller."""
    return 1 << (count - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, root: Root) -> list[bytes]:
    """PATH(index, D[size]) of section 2.1.1. Raises ValueError outside the tree."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(root(middle, end))
            end = middle
        else:
            proof.append(root(start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, root: Root) -> list[bytes]:
    """PROOF(old, D[new]) of section 2.1.2; empty when there is nothing to prove."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not extend one of {old}")
    if old in (0, new):
        return []
    proof: list[bytes] = []
    start, end, known = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(root(middle, end))
            end = middle
        else:
            proof.append(root(start, middle))
            start, known = middle, False
    if not known:
        proof.append(root(start, end))
    return proof[::-1]


def includes(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows the leaf at this place of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, current = index, size - 1, leaf
    for one in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            current = node_hash(one, current)
            while place and not place & 1:
                place >>= 1
                last >>= 1
        else:
            current = node_hash(current, one)
        place >>= 1
        last >>= 1
    return last == 0 and current == root


def extends(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that one tree begins with the other (RFC 9162, section 2.1.4.2)."""
    if old == new:
        return not proof and old_root == new_root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if not 0 < old < new:
        return False
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    was = now = path[0]
    for one in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            was, now = node_hash(one, was), node_hash(one, now)
            while place and not place & 1:
                place >>= 1
                last >>= 1
        else:
            now = node_hash(now, one)
        place >>= 1
        last >>= 1
    return last == 0 and was == old_root and now == new_root
