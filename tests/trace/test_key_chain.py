"""A log that goes on under another key: who trusts the one trusts what it handed over to."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import keyring
from gateway.data_dir.state import KEYS
from gateway.ids import new_id
from gateway.store.database import reading_engine
from gateway.trace import note, rekeying
from gateway.trace.note import VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.record import Draft
from tests.builders import World, a_state
from tests.places import place_of
from tests.trace.evidence_world import PROJECT, Line, edit_document, judge, sign, write


def append(world: World, count: int) -> None:
    drafts = [Draft("event", new_id("evt"), PROJECT) for _ in range(count)]
    world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))


def hand_over(world: World, data: Path) -> None:
    """What `gateway keys rotate log` does."""
    new = Ed25519PrivateKey.from_private_bytes(keyring.stage(data / KEYS, "log"))
    state = world.state
    signed = state.writer.change_now(
        lambda c: rekeying.hand_over(c, state.log, state.keyring.log, new)
    )
    state.checkpoints.publish(signed)
    keyring.follow(data / KEYS, "log")


@pytest.fixture
def rotated(tmp_path: Path) -> tuple[Path, list[str]]:
    """A directory whose log was handed over twice, with records under each key; the three keys."""
    data, keys = tmp_path / "data", []
    for last in (False, False, True):
        with a_state(data) as world:
            keys.append(world.state.checkpoints.verifier_key)
            append(world, 5)
            sign(world)
            if not last:
                hand_over(world, data)
    return data, keys


@pytest.mark.parametrize("trusted", [0, 1, 2])
def test_evidence_is_believed_from_any_key_on(
    rotated: tuple[Path, list[str]], tmp_path: Path, trusted: int
) -> None:
    data, keys = rotated
    with a_state(data) as world:
        bundle = write(world, tmp_path / "bundle")
        verdict = judge(world, bundle, key=keys[trusted])
    assert verdict.code == 0, verdict.text
    handed = [line for line in json.loads(verdict.text)["checks"] if line["name"] == "log.key"]
    assert [line["status"] for line in handed] == ["PASS"] * (2 - trusted)
    assert not verdict.failing


def test_without_the_hand_over_the_new_key_is_nobodys(
    rotated: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, keys = rotated
    with a_state(data) as world:
        bundle = write(world, tmp_path / "bundle")
        (bundle / "logs/0/keys.json").unlink()
        for trusted, code in zip(keys, (1, 1, 0), strict=True):
            assert judge(world, bundle, key=trusted).code == code


def test_a_gap_in_the_chain_is_not_jumped(rotated: tuple[Path, list[str]], tmp_path: Path) -> None:
    data, keys = rotated

    def forget_the_second(document: Line) -> None:
        del document["keys"][1]

    with a_state(data) as world:
        bundle = write(world, tmp_path / "bundle")
        edit_document(bundle, "logs/0/keys.json", forget_the_second)
        assert judge(world, bundle, key=keys[0]).failing == {"checkpoint.signature"}


def test_a_hand_over_that_the_old_key_did_not_sign_is_none(
    rotated: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Whoever has the new key alone, or none, cannot have the old one vouch for it."""
    data, keys = rotated
    stranger = Ed25519PrivateKey.generate()

    def signed_by_a_stranger(document: Line) -> None:
        for one in document["keys"]:
            text = one["note"].rpartition("\n\n")[0] + "\n"
            one["note"] = note.sign(note.parse(text), stranger)

    with a_state(data) as world:
        bundle = write(world, tmp_path / "bundle")
        edit_document(bundle, "logs/0/keys.json", signed_by_a_stranger)
        verdict = judge(world, bundle, key=keys[0])
    assert verdict.code == 1
    assert verdict.failing == {"checkpoint.signature"}


@pytest.mark.parametrize("what", ["record", "index", "consistency", "proof"])
def test_a_hand_over_that_was_altered_is_told(
    rotated: tuple[Path, list[str]], tmp_path: Path, what: str
) -> None:
    data, keys = rotated

    def alter(document: Line) -> None:
        one = document["keys"][0]
        if what == "record":
            other = str(VerifierKey.of("x", Ed25519PrivateKey.generate()))
            one["record"] = json.dumps({**json.loads(one["record"]), "verifier_key": other})
        elif what == "index":
            one["index"] -= 1
        else:
            one[what] = one[what][1:]

    with a_state(data) as world:
        bundle = write(world, tmp_path / "bundle")
        edit_document(bundle, "logs/0/keys.json", alter)
        verdict = judge(world, bundle, key=keys[0])
    assert verdict.code == 1
    assert "log.key" in verdict.failing


def test_a_record_of_another_kind_hands_nothing_over(tmp_path: Path) -> None:
    """A head that the old key signed, whose last record is anybody's, vouches for no key."""
    data = tmp_path / "data"
    with a_state(data) as world:
        append(world, 3)
        trusted = world.state.checkpoints.verifier_key
        sign(world)
        hand_over(world, data)
    with a_state(data) as world:
        append(world, 3)
        sign(world)
        bundle = write(world, tmp_path / "bundle")

        def another(document: Line) -> None:
            one = document["keys"][0]
            one["record"] = one["record"].replace("log_key.changed", "anchor.changed")

        edit_document(bundle, "logs/0/keys.json", another)
        assert judge(world, bundle, key=trusted).failing >= {"log.key", "checkpoint.signature"}


def test_a_sealed_log_is_believed_under_the_new_key_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with a_state(data) as world:
        first = world.state.checkpoints.verifier_key
        append(world, 5)
        sign(world)
        world.state.writer.change_now(lambda c: world.state.log.succeed(c, "a test"))
        append(world, 5)
        sign(world)
        hand_over(world, data)
    with a_state(data) as world:
        append(world, 5)
        sign(world)
        bundle = write(world, tmp_path / "bundle")
        new = world.state.keyring.log
        for key in (first, str(VerifierKey.of(VerifierKey.parse(first).name, new))):
            verdict = judge(world, bundle, key=key)
            assert verdict.code == 0, verdict.text


def test_what_was_seen_under_the_old_key_is_extended_under_the_new(
    rotated: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, keys = rotated
    with a_state(data) as world:
        notes = [n for (n,) in world.rows("SELECT note FROM checkpoints ORDER BY size")]
        bundle = write(world, tmp_path / "bundle")
        for seen in notes:
            previous = tmp_path / "seen.txt"
            previous.write_text(seen)
            verdict = judge(world, bundle, key=keys[0], previous=previous)
            assert verdict.checks["consistency.previous"] == "PASS"


@pytest.mark.parametrize("trusted", [0, 1, 2])
def test_a_whole_database_is_believed_from_any_key_on(
    rotated: tuple[Path, list[str]], trusted: int
) -> None:
    data, keys = rotated
    engine = reading_engine(place_of(data))
    with engine.connect() as connection, connection.begin():
        key = VerifierKey.parse(keys[trusted])
        found = {one.name: one for one in recheck(connection, key, lambda *_: None)}
        stranger = VerifierKey.of(key.name, Ed25519PrivateKey.generate())
        foreign = {one.name: one for one in recheck(connection, stranger, lambda *_: None)}
    engine.dispose()
    assert {one.status for one in found.values()} == {"PASS"}
    assert foreign["checkpoints"].status == "FAIL"
