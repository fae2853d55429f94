"""The tree against RFC 6962's definition and the vectors of Certificate Transparency."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.trace.merkle import (
    EMPTY_ROOT,
    TILE_HEIGHT,
    TILE_WIDTH,
    Frontier,
    leaf_hash,
    node_hash,
    rebuild,
)
from tests.builders import root_of

# google/certificate-transparency, merkletree/merkle_tree_test.cc: eight leaves, and the root
# after each of them.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


class Tiles:
    """The store of a growing tree, as the tables hold it: leaves and full tiles by level."""

    def __init__(self) -> None:
        self.levels: dict[int, list[bytes]] = {0: []}
        self.largest_read = 0

    def add(self, frontier: Frontier, leaf: bytes) -> None:
        self.levels[0].append(leaf)
        frontier.add(leaf, self._tile)

    def _tile(self, level: int, n: int, digest: bytes) -> None:
        row = self.levels.setdefault(level, [])
        assert n == len(row)
        row.append(digest)

    def hashes(self, level: int, start: int, count: int) -> Sequence[bytes]:
        self.largest_read = max(self.largest_read, count)
        return self.levels.get(level, [])[start : start + count]


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % n) for n in range(count)]


def test_the_empty_tree_has_the_hash_of_nothing_as_its_root() -> None:
    assert Frontier().root() == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_roots_of_one_to_eight_leaves_are_those_of_certificate_transparency() -> None:
    frontier = Frontier()
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        frontier.add(leaf_hash(leaf), lambda *_: None)
        assert frontier.root().hex() == root


def test_a_leaf_never_hashes_like_a_node() -> None:
    left, right = some_leaves(2)
    assert leaf_hash(left + right) != node_hash(left, right)


def test_the_frontier_and_what_is_rebuilt_from_tiles_have_the_recursive_root_at_every_size() -> (
    None
):
    leaves, frontier, tiles = some_leaves(600), Frontier(), Tiles()
    for size in range(601):
        if size:
            tiles.add(frontier, leaves[size - 1])
        rebuilt = rebuild(size, tiles.hashes)
        assert frontier.root() == root_of(leaves[:size])
        assert (rebuilt.size, rebuilt.subtrees) == (frontier.size, frontier.subtrees)
    assert [len(tiles.levels[level]) for level in sorted(tiles.levels)] == [600, 2]
    assert tiles.levels[1] == [root_of(leaves[:256]), root_of(leaves[256:512])]


def test_the_second_level_of_tiles_stands_for_65536_leaves_each() -> None:
    frontier, tiles = Frontier(), Tiles()
    leaf = leaf_hash(b"")
    for _ in range(TILE_WIDTH**2 + TILE_WIDTH + 3):
        tiles.add(frontier, leaf)
    assert [len(tiles.levels[level]) for level in sorted(tiles.levels)] == [65795, 257, 1]
    rebuilt = rebuild(frontier.size, tiles.hashes)
    assert (rebuilt.size, rebuilt.subtrees) == (frontier.size, frontier.subtrees)
    assert tiles.largest_read < 1 << TILE_HEIGHT


@pytest.mark.parametrize("level", [0, 1])
def test_a_store_that_lacks_a_hash_is_called_damaged(level: int) -> None:
    frontier, tiles = Frontier(), Tiles()
    for leaf in some_leaves(300):
        tiles.add(frontier, leaf)
    tiles.levels[level].pop()
    with pytest.raises(ValueError, match="damaged"):
        rebuild(300, tiles.hashes)


def test_a_copy_grows_by_itself() -> None:
    frontier = Frontier()
    first, second = some_leaves(2)
    frontier.add(first, lambda *_: None)
    copy = frontier.copy()
    copy.add(second, lambda *_: None)
    assert (frontier.size, frontier.root()) == (1, first)
    assert (copy.size, copy.root()) == (2, node_hash(first, second))


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=70), st.data())
def test_any_change_to_any_leaf_changes_the_root(bodies: list[bytes], data: st.DataObject) -> None:
    def root(of: list[bytes]) -> bytes:
        frontier = Frontier()
        for body in of:
            frontier.add(leaf_hash(body), lambda *_: None)
        assert frontier.root() == root_of([leaf_hash(body) for body in of])
        return frontier.root()

    before = root(bodies)
    assert root([*bodies, b"one more"]) != before
    if bodies:
        place = data.draw(st.integers(0, len(bodies) - 1))
        altered = [*bodies]
        altered[place] += b"!"
        assert root(altered) != before
