"""Proofs: every place of every tree up to 64, what is false is refused, tiles give the same."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.trace.merkle import (
    EMPTY_ROOT,
    Frontier,
    Root,
    consistency_proof,
    extends,
    includes,
    inclusion_proof,
    leaf_hash,
    roots,
)
from tests.builders import root_of
from tests.trace.test_merkle import LEAVES, ROOTS, Tiles

MOST = 64
ALL = [leaf_hash(b"%d" % n) for n in range(MOST)]
ROOT = [root_of(ALL[:size]) for size in range(MOST + 1)]


def stored(leaves: Sequence[bytes]) -> Root:
    frontier, tiles = Frontier(), Tiles()
    for leaf in leaves:
        tiles.add(frontier, leaf)
    return roots(tiles.hashes)


OF = stored(ALL)


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_every_leaf_of_every_tree_is_proved_and_no_other_place_is(size: int) -> None:
    for index in range(size):
        proof = inclusion_proof(index, size, OF)
        assert includes(index, size, ALL[index], proof, ROOT[size])
        for other in range(-1, size + 2):
            if other != index:
                assert not includes(other, size, ALL[index], proof, ROOT[size])
        assert not includes(index, size, leaf_hash(b"x"), proof, ROOT[size])
        assert not includes(index, size, ALL[index], [*proof, ALL[0]], ROOT[size])
        assert not includes(index, size, ALL[index], proof, ROOT[size - 1])
        if proof:
            assert not includes(index, size, ALL[index], proof[:-1], ROOT[size])
            assert not includes(index, size, ALL[index], proof[1:], ROOT[size])


@pytest.mark.parametrize("new", range(MOST + 1))
def test_every_tree_extends_every_smaller_one_and_no_other(new: int) -> None:
    for old in range(new + 1):
        proof = consistency_proof(old, new, OF)
        assert extends(old, ROOT[old], new, ROOT[new], proof)
        assert not extends(old, leaf_hash(b"x"), new, ROOT[new], proof)
        assert not extends(old, ROOT[old], new, ROOT[new], [*proof, ALL[0]])
        assert not extends(new + 1, ROOT[old], new, ROOT[new], proof)
        if old not in (0, new):
            assert not extends(old, ROOT[old], new, leaf_hash(b"x"), proof)
            assert not extends(old, ROOT[old], new, ROOT[new], proof[:-1])
            assert not extends(old, ROOT[old], new, ROOT[new], [])
            altered = [ALL[0], *proof[1:]] if proof[0] != ALL[0] else [ALL[1], *proof[1:]]
            assert not extends(old, ROOT[old], new, ROOT[new], altered)


def test_nothing_is_proved_outside_the_tree() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(index, size, OF)
    with pytest.raises(ValueError, match="does not extend"):
        consistency_proof(5, 4, OF)
    assert not extends(-1, EMPTY_ROOT, 4, ROOT[4], [])


def test_the_paths_of_certificate_transparencys_eight_leaves_lead_to_its_roots() -> None:
    leaves = [leaf_hash(leaf) for leaf in LEAVES]
    of = stored(leaves)
    for size, root in enumerate(ROOTS, start=1):
        for index in range(size):
            proof = inclusion_proof(index, size, of)
            assert includes(index, size, leaves[index], proof, bytes.fromhex(root))
    # merkle_tree_test.cc: the path of leaf 0 in the tree of 8, and the proof from 6 to 8.
    assert [one.hex() for one in inclusion_proof(0, 8, of)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [one.hex() for one in consistency_proof(6, 8, of)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@settings(max_examples=60)
@given(st.integers(1, 1500), st.data())
def test_proofs_from_tiles_hold_in_trees_of_several_tiles(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    of = stored(leaves)
    root = root_of(leaves)
    assert of(0, size) == root
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, of)
    assert includes(index, size, leaves[index], proof, root)
    assert len(proof) <= (size - 1).bit_length()
    old = data.draw(st.integers(0, size))
    path = consistency_proof(old, size, of)
    assert extends(old, root_of(leaves[:old]), size, root, path)
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        path[place] = bytes(32)
        assert not extends(old, root_of(leaves[:old]), size, root, path)
