"""Names and bytes of tiles, as c2sp.org/tlog-tiles has them."""

import pytest

from gateway.cold import tiles
from gateway.trace.merkle import Frontier, leaf_hash


def test_names_are_those_of_the_specification() -> None:
    assert tiles.hash_tile(0, 1234067) == "tile/0/x001/x234/067"
    assert tiles.hash_tile(0, 0) == "tile/0/000"
    assert tiles.hash_tile(2, 999) == "tile/2/999"
    assert tiles.hash_tile(1, 1000) == "tile/1/x001/000"
    assert tiles.hash_tile(3, 5, 8) == "tile/3/005.p/8"
    assert tiles.entry_bundle(1234067, 1) == "tile/entries/x001/x234/067.p/1"


def test_a_tree_has_the_partial_tiles_of_the_specification() -> None:
    # Its example: a tree of 70,000 entries.
    assert list(tiles.of_tree(70_000)) == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert list(tiles.of_tree(256)) == [(1, 0, 1)]
    assert list(tiles.of_tree(0)) == []
    assert list(tiles.completed(254)) == []
    assert list(tiles.completed(255)) == [(1, 0)]
    assert list(tiles.completed(65_535)) == [(1, 255), (2, 0)]


def test_entries_have_their_length_before_them() -> None:
    entries = [b"", b"a", b"b" * 65_535]
    bundle = tiles.encoded(entries)
    assert bundle[:6] == b"\0\0\0\1a\xff"
    assert tiles.decoded(bundle, 3) == entries
    with pytest.raises(OverflowError):
        tiles.encoded([b"c" * 65_536])


@pytest.mark.parametrize("cut", [1, 2, 3, 65_537])
def test_a_bundle_that_is_cut_short_or_goes_on_is_none(cut: int) -> None:
    bundle = tiles.encoded([b"a", b"b" * 65_534])
    with pytest.raises(ValueError, match="it ends within entry"):
        tiles.decoded(bundle[:-cut], 2)
    with pytest.raises(ValueError, match="1 bytes follow its 2 entries"):
        tiles.decoded(bundle + b"\0", 2)
    with pytest.raises(ValueError, match="it has 31 bytes"):
        tiles.hashes(b"\0" * 31, 1)


def test_the_root_of_a_tile_is_that_of_its_tree() -> None:
    entries = [b"%d" % n for n in range(256)]
    frontier, told = Frontier(), []
    for entry in entries:
        frontier.add(leaf_hash(entry), lambda *one: told.append(one))
    assert told == [(1, 0, tiles.root(tiles.leaves(entries)))]
    grafted, again = Frontier(), []
    for _ in range(3):
        grafted.graft(told[0][2], lambda *one: again.append(one))
    for entry in entries * 2:
        frontier.add(leaf_hash(entry), lambda *one: None)
    assert (grafted.size, grafted.root()) == (frontier.size, frontier.root())
    assert again == [(1, n, told[0][2]) for n in range(3)]
