"""What is in cold storage, read: by people over the API, by auditors, and when it was changed."""

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import command_line
from gateway.clock import after
from gateway.cold import reading
from gateway.cold.objects import ColdAway, ColdDamaged
from gateway.registry import recorded
from gateway.trace import note
from gateway.trace.note import VerifierKey
from tests import places
from tests.cold.cold_world import ColdWorld, a_cold_world
from tests.trace.evidence_world import append, judge, sign, write

FIRST = "tile/entries/000"


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[ColdWorld]:
    """Three of its four tiles are cold; the process has not read any."""
    with a_cold_world(tmp_path) as made:
        made.archive().round()
        yield made


def object_of(cold: ColdWorld, name: str) -> Path:
    return cold.folder / cold.origin / name


# --- another tool's view ---


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, with nothing of the gateway's."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


def test_the_objects_alone_make_the_root_that_was_signed(cold: ColdWorld) -> None:
    log = cold.folder / cold.origin
    text = (log / "checkpoint").read_text()
    origin, size_text, root_text = text.splitlines()[:3]
    size, root = int(size_text), b64decode(root_text)
    key = VerifierKey.parse(cold.world.state.checkpoints.verifier_key)
    assert note.opened(text, key).startswith(f"{cold.origin}\n")
    assert origin == cold.origin
    leaves: list[bytes] = []
    for n in range((size + 255) // 256):
        width = min(256, size - n * 256)
        name = f"{n:03d}" if width == 256 else f"{n:03d}.p/{width}"
        bundle, made = (log / "tile/entries" / name).read_bytes(), b""
        while bundle:
            length = int.from_bytes(bundle[:2], "big")
            assert json.loads(bundle[2 : 2 + length])["idx"] == len(leaves)
            leaves.append(hashlib.sha256(b"\0" + bundle[2 : 2 + length]).digest())
            made, bundle = made + leaves[-1], bundle[2 + length :]
        assert (log / "tile/0" / name).read_bytes() == made
    assert (len(leaves), _root(leaves)) == (size, root)
    above = (log / f"tile/1/000.p/{size // 256}").read_bytes()
    assert above == b"".join(_root(leaves[n * 256 : n * 256 + 256]) for n in range(size // 256))


# --- damage ---


def test_a_missing_object_is_named_and_nothing_else_is_taken_for_it(cold: ColdWorld) -> None:
    content = object_of(cold, FIRST).read_bytes()
    object_of(cold, FIRST).unlink()
    found = cold.recheck()
    assert {name for name, one in found.items() if one.status != "PASS"} == {"cold.objects"}
    assert found["cold.objects"].status == "FAIL"
    assert f"{cold.origin}/{FIRST} is missing" in found["cold.objects"].detail
    with pytest.raises(ColdDamaged, match=FIRST):
        cold.seen([])
    object_of(cold, FIRST).write_bytes(content)
    assert {one.status for one in cold.recheck().values()} == {"PASS"}


@pytest.mark.parametrize("name", [FIRST, "tile/0/001"])
@pytest.mark.parametrize("how", ["cut", "edited", "exchanged"])
def test_a_changed_object_is_named_and_never_shown(cold: ColdWorld, name: str, how: str) -> None:
    path = object_of(cold, name)
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-7])
    elif how == "edited":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        path.write_bytes(path.with_name("002").read_bytes())
    found = cold.recheck()["cold.objects"]
    assert (found.status, f"{name} is not what was written" in found.detail) == ("FAIL", True)
    with pytest.raises(ColdDamaged, match=name):
        _read_directly(cold, name)


def _read_directly(cold: ColdWorld, name: str) -> None:
    if name == FIRST:
        cold.seen([])
        return
    with cold.world.state.reader.connect() as connection:
        reading.leaf_hashes(connection, 0, 300, 2)


def test_a_copy_in_the_database_that_differs_is_named(tmp_path: Path) -> None:
    with a_cold_world(tmp_path, pairs=10) as cold:
        world = cold.world
        world.state.writer.change_now(world.state.checkpoints.before_anchor)
        append(world, 300)
        sign(world)
        cold.archive().round()
        assert cold.recheck()["cold.objects"].status == "PASS"
        world.state.writer.change_now(
            lambda c: (
                c.exec_driver_sql(
                    places.sql("UPDATE trace SET body = x'7b7d' WHERE kind = 'heads'")
                ).rowcount
            )
        )
        assert "copy of record 30" in cold.recheck()["records.hash"].detail


def test_a_storage_that_is_not_there_cannot_be_told(cold: ColdWorld, tmp_path: Path) -> None:
    cold.folder.rename(tmp_path / "away")
    found = cold.recheck()
    assert found["cold.objects"].status == "FAIL"  # a folder tells missing files, not why
    with pytest.raises(ColdDamaged, match="is missing"):
        cold.seen([])


# --- by command ---


def run(*words: object, **environment: str) -> tuple[int, str]:
    given = [str(word) for word in words]
    done = CliRunner().invoke(command_line(given[0]), given, env=environment)
    return done.exit_code, done.output


def test_verify_needs_to_know_where_old_records_are(cold: ColdWorld) -> None:
    data = cold.world.state.data_dir
    assert run("verify", "db", *places.named(data), "--cold", cold.folder)[0] == 0
    assert run("verify", "db", *places.named(data), GATEWAY_COLD_STORE=str(cold.folder))[0] == 0
    code, said = run("verify", "db", *places.named(data))
    assert (code, "set GATEWAY_COLD_STORE" in said) == (3, True)
    code, said = run("verify", "db", *places.named(data), "--cold", cold.folder / "other")
    assert (code, "there is no folder" in said) == (3, True)
    object_of(cold, FIRST).write_bytes(b"")
    code, said = run("verify", "db", *places.named(data), "--cold", cold.folder)
    assert (code, "cold.objects" in said) == (1, True)


def test_records_move_by_a_command_while_no_gateway_runs(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "cold"
    with a_cold_world(tmp_path) as cold:
        # As if they were three days old; nothing but these two times decides what goes.
        old = after(cold.world.state.clock.now(), -3 * 86_400)
        cold.world.state.writer.change_now(
            lambda c: (
                c.exec_driver_sql(places.sql("UPDATE checkpoints SET ts = ?"), (old,)).rowcount
            )
        )
    given = {"GATEWAY_COLD_STORE": str(folder), "GATEWAY_COLD_AFTER_DAYS": "2"}
    assert run("log", "status", "--data-dir", data)[1].startswith("850 records are in the database")
    assert run("log", "archive", "--data-dir", data)[0] == 1
    code, said = run("log", "archive", "--data-dir", data, "--json", **given)
    assert (code, json.loads(said.splitlines()[-1])["moved"]) == (0, 768)
    told = json.loads(run("log", "status", "--data-dir", data, "--json", **given)[1])
    assert (told["records"], told["cold_records"]) == (82, 768)
    assert told["cold_bytes"] == sum(
        path.stat().st_size
        for kind in ("0", "entries")
        for path in folder.glob(f"*/trace/main/tile/{kind}/00?")
    )
    assert run("verify", "db", *places.named(data), **given)[0] == 0


# --- for auditors, and for decisions made again ---


def test_evidence_of_old_records_verifies_offline(cold: ColdWorld, tmp_path: Path) -> None:
    found = judge(cold.world, write(cold.world, tmp_path / "bundle"))
    assert (found.code, found.checks["completeness"]) == (0, "PASS")
    assert found.details["records.inclusion"].startswith("425 of 425")


def test_old_decisions_are_found_with_their_inputs(cold: ColdWorld) -> None:
    state = cold.world.state
    with state.reader.connect() as connection:
        found = list(recorded.since(connection, state.keyring, "2020", 1000, "prj_1"))
        assert len(found) == 425
        assert {one.input_state for one in found} == {"kept", "not recorded"}
        assert [one.ts for one in found] == sorted((one.ts for one in found), reverse=True)
        oldest = found[-1]
        assert recorded.find(connection, state.keyring, oldest.trace_id) == oldest
        assert oldest.question == b'{"input":{}}'


def test_nobody_waits_on_the_writing_thread_for_old_records(cold: ColdWorld) -> None:
    state = cold.world.state
    with state.reader.connect() as connection:
        found = list(recorded.since(connection, state.keyring, "2020", 1000, "prj_1"))
    with pytest.raises(ColdAway):
        state.writer.change_now(
            lambda c: recorded.find(c, state.keyring, found[-1].trace_id).trace_id
        )
