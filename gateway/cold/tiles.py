"""The names and bytes of tiles and entry bundles (https://c2sp.org/tlog-tiles). Pure.

An entry is a record's canonical bytes, so that its leaf hash is the tree's: whoever reads the
files needs nothing of ours to make the root again.
"""

from collections.abc import Iterator, Sequence

from gateway.trace.merkle import TILE_WIDTH, leaf_hash, node_hash

CHECKPOINT = "checkpoint"
HASH_BYTES = 32
MOST_BYTES = 0xFFFF
"""Of an entry: its length is a uint16. Records have 16 KiB at most."""


def hash_tile(level: int, n: int, width: int = TILE_WIDTH) -> str:
    """The name of a tile of hashes; with fewer than 256 it is a partial one."""
    return f"tile/{level}/{_numbered(n, width)}"


def entry_bundle(n: int, width: int = TILE_WIDTH) -> str:
    """The name of the records below a tile of level 0."""
    return f"tile/entries/{_numbered(n, width)}"


def _numbered(n: int, width: int) -> str:
    """1234067 is ``x001/x234/067``."""
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.append(f"x{n % 1000:03d}")
    path = "/".join(reversed(groups))
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def of_tree(size: int) -> Iterator[tuple[int, int, int]]:
    """``(level, n, width)`` of each tile that is not full in a tree of this size."""
    level = 0
    while count := size >> 8 * level:
        if count % TILE_WIDTH:
            yield level, count // TILE_WIDTH, count % TILE_WIDTH
        level += 1


def completed(n: int) -> Iterator[tuple[int, int]]:
    """``(level, n)`` of the tiles above that are full once a tile of level 0 is."""
    level = 1
    while n % TILE_WIDTH == TILE_WIDTH - 1:
        n //= TILE_WIDTH
        yield level, n
        level += 1


def encoded(entries: Sequence[bytes]) -> bytes:
    """An entry bundle. Raises OverflowError for an entry over 65,535 bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decoded(bundle: bytes, width: int = TILE_WIDTH) -> list[bytes]:
    """The entries; raises ValueError when there are not exactly ``width``, or bytes are over."""
    entries, at = [], 0
    for number in range(width):
        start = at + 2
        at = start + int.from_bytes(bundle[at:start], "big")
        if start > len(bundle) or at > len(bundle):
            raise ValueError(f"it ends within entry {number} of {width}")
        entries.append(bundle[start:at])
    if at != len(bundle):
        raise ValueError(f"{len(bundle) - at} bytes follow its {width} entries")
    return entries


def hashes(tile: bytes, width: int = TILE_WIDTH) -> list[bytes]:
    """The hashes of a tile; raises ValueError for another length."""
    if len(tile) != width * HASH_BYTES:
        raise ValueError(f"it has {len(tile)} bytes, not {width * HASH_BYTES}")
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


def leaves(entries: Sequence[bytes]) -> list[bytes]:
    return [leaf_hash(entry) for entry in entries]


def root(row: Sequence[bytes]) -> bytes:
    """Of a full tile: what the tile above has of it."""
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]
