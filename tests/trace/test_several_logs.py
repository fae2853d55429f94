"""Evidence of several logs: none can be left out, cut short, exchanged or put in twice."""

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import keyring
from gateway.registry.evidence import BundleWriter, Wanted
from gateway.registry.traces import Filter
from gateway.store.database import reading_engine, writing_engine
from gateway.trace import note, slots
from gateway.trace.bundle import Bundle
from gateway.trace.chain_proof import ANCHOR
from gateway.trace.ethereum import keccak256
from gateway.trace.merkle import Frontier
from gateway.trace.note import Checkpoint, VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.trust import Trust
from gateway.trace.verify import verify
from tests.trace.evidence_world import PROJECT, path_of
from tests.trace.test_ethereum import Wallet
from tests.trace.test_slots import Machines, machines_in

NAME = "gw.example/trace/main"


@dataclass(frozen=True)
class Evidence:
    machines: Machines
    bundle: Path
    key: VerifierKey

    def failing(self, previous: str | None = None) -> set[str]:
        told = verify(self.open(), Trust(self.key, previous))
        return {check.name for check in told if check.status == "FAIL"}

    def statuses(self, key: VerifierKey | None = None) -> dict[str, str]:
        told = verify(self.open(), Trust(key or self.key))
        return {f"{check.log} {check.name}".strip(): check.status for check in told}

    def details(self) -> dict[str, str]:
        told = verify(self.open(), Trust(self.key))
        return {f"{check.log} {check.name}".strip(): check.detail for check in told}

    def open(self) -> Bundle:
        return Bundle(self.bundle)


def write(machines: Machines, folder: Path, *, leaves: bool = True) -> Path:
    engine = reading_engine(machines.place)
    keys = keyring.load(machines.folder / "keys")
    file = io.BytesIO()
    wanted = Wanted(Filter(), leaves=leaves)
    BundleWriter(engine, keys, PROJECT, wanted, "2026-01-01T00:00:00.000000Z", file).write()
    engine.dispose()
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(file) as bundle:
        bundle.extractall(folder)
    return folder


@pytest.fixture
def evidence(tmp_path: Path) -> Iterator[Evidence]:
    """Three gateways: the second's log was sealed, the first's head was chosen for an anchor."""
    with machines_in(tmp_path / "data") as machines:
        one = machines.start("a")
        one.append(10)
        one.sign()
        two = machines.start("b")
        two.append(5)
        two.sign()
        two.writer.change_now(lambda c: two.checkpoints.seal(c, two.log.number, "for a test"))
        two.append(5)
        two.sign()
        three = machines.start("c")
        three.append(4)
        three.sign()
        one.append(3)
        one.writer.change_now(one.checkpoints.before_anchor)
        three.append(2)
        three.sign()
        key = VerifierKey.of(NAME, keyring.load(machines.folder / "keys").log)
        yield Evidence(machines, write(machines, tmp_path / "bundle"), key)


def test_all_logs_are_checked_and_hold_each_other(evidence: Evidence) -> None:
    told = evidence.statuses()
    assert {told[name] for name in told if not name.endswith("unanchored")} == {"PASS"}
    for origin in (NAME, f"{NAME}.1", f"{NAME}.1-2", f"{NAME}.2"):
        assert told[f"{origin} records.inclusion"] == "PASS"
        assert told[f"{origin} project.sequence"] == "PASS"
    assert evidence.details()["logs"] == "4 of 4"
    assert evidence.details()["logs.heads"].startswith("7 heads")


def test_a_key_in_the_name_of_any_of_the_logs_is_that_of_all(evidence: Evidence) -> None:
    for name in (f"{NAME}.2", f"{NAME}.1-2"):
        told = evidence.statuses(VerifierKey(name, evidence.key.public))
        assert told["logs"] == "PASS"
        assert told[f"{NAME} checkpoint.signature"] == "PASS"


def log_of(bundle: Path, origin: str) -> Path:
    for path in bundle.glob("logs/*/checkpoint.txt"):
        if path.read_text().splitlines()[0] == origin:
            return path.parent
    raise AssertionError(origin)


def left_out(origin: str) -> Callable[[Path], None]:
    return lambda bundle: shutil.rmtree(log_of(bundle, origin))


def put_in_the_place_of(origin: str, other: str) -> Callable[[Path], None]:
    def edit(bundle: Path) -> None:
        place = log_of(bundle, origin)
        shutil.rmtree(place)
        shutil.copytree(log_of(bundle, other), place)

    return edit


def exchanged(name: str) -> Callable[[Path], None]:
    def edit(bundle: Path) -> None:
        one, two = (log_of(bundle, f"{NAME}{end}") / name for end in ("", ".2"))
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)

    return edit


def proof_changed(bundle: Path) -> None:
    path = log_of(bundle, f"{NAME}.2") / "consistency.json"
    proofs = json.loads(path.read_text())
    nothing = base64.b64encode(bytes(32)).decode()
    path.write_text(json.dumps({size: [nothing for _ in one] for size, one in proofs.items()}))


def renamed(bundle: Path) -> None:
    """A log of the same key in another one's name, its signature as it was."""
    path = log_of(bundle, f"{NAME}.2") / "checkpoint.txt"
    path.write_text(path.read_text().replace(f"{NAME}.2\n", f"{NAME}.3\n", 1))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (left_out(NAME), "logs"),
        (left_out(f"{NAME}.1"), "logs"),
        (left_out(f"{NAME}.1-2"), "logs"),
        (left_out(f"{NAME}.2"), "logs"),
        (put_in_the_place_of(f"{NAME}.2", NAME), "logs"),
        (put_in_the_place_of(NAME, f"{NAME}.2"), "logs"),
        (exchanged("entries.jsonl"), "records.inclusion"),
        (exchanged("leaves.bin"), "completeness"),
        (exchanged("checkpoint.txt"), "records.inclusion"),
        (proof_changed, "logs.heads"),
        (renamed, "checkpoint.signature"),
    ],
)
def test_an_edit_is_named(evidence: Evidence, edit: Callable[[Path], None], named: str) -> None:
    edit(evidence.bundle)
    assert named in evidence.failing()


def test_logs_that_change_their_places_in_the_bundle_are_the_same_logs(evidence: Evidence) -> None:
    one, two = log_of(evidence.bundle, NAME), log_of(evidence.bundle, f"{NAME}.2")
    aside = one.with_name("9")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    assert evidence.failing() == set()


def test_a_log_that_is_known_from_an_earlier_checkpoint_must_be_there(evidence: Evidence) -> None:
    """Also where whoever holds the key has removed every name of it."""
    three = evidence.machines.opened[2]
    earlier = three.sign().note
    assert evidence.failing(earlier) == set()
    for path in (evidence.bundle / "logs").iterdir():
        if path != log_of(evidence.bundle, NAME):
            shutil.rmtree(path)
    lines = (log_of(evidence.bundle, NAME) / "entries.jsonl").read_text().splitlines(True)
    kept = [line for line in lines if json.loads(json.loads(line)["record"])["kind"] != "heads"]
    (log_of(evidence.bundle, NAME) / "entries.jsonl").write_text("".join(kept))
    assert "logs" not in evidence.failing()
    assert "logs" in evidence.failing(earlier)


def forged_head(evidence: Evidence, origin: str, size: int) -> None:
    """A log cut short and signed again, by who holds its key."""
    folder = log_of(evidence.bundle, origin)
    leaves = (folder / "leaves.bin").read_bytes()[: 32 * size]
    lines = (folder / "entries.jsonl").read_text().splitlines(True)[:size]
    hashes = [leaves[i : i + 32] for i in range(0, len(leaves), 32)]
    frontier = Frontier()
    for one in hashes:
        frontier.add(one, lambda *_: None)
    told = []
    for line in lines:
        entry = json.loads(line)
        proof = path_of(entry["index"], hashes)
        told.append({**entry, "proof": [base64.b64encode(one).decode() for one in proof]})
    (folder / "leaves.bin").write_bytes(leaves)
    (folder / "entries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    (folder / "consistency.json").write_text("{}")
    head = Checkpoint(origin, size, frontier.root())
    keys = keyring.load(evidence.machines.folder / "keys")
    (folder / "checkpoint.txt").write_text(note.sign(head, keys.log))


def test_a_log_that_is_cut_short_and_signed_again_is_shorter_than_another_names_it(
    evidence: Evidence,
) -> None:
    forged_head(evidence, f"{NAME}.2", 3)
    assert "logs.heads" in evidence.failing()


# --- coverage ---


def test_an_anchor_of_one_log_covers_the_others_up_to_where_it_names_them(
    evidence: Evidence,
) -> None:
    one = evidence.machines.opened[0]
    folder = log_of(evidence.bundle, NAME)
    size = one.log.size
    root = one.log.root()
    head = keccak256(NAME.encode()) + size.to_bytes(32) + root
    raw = base64.b64encode(Wallet(7).signed(b"\x33" * 20, ANCHOR + head)).decode()
    anchor = {"backend": "flare", "size": size, "consistency": [], "proof": raw}
    anchor["root"] = base64.b64encode(root).decode()
    (folder / "anchors.json").write_text(json.dumps({"anchors": [anchor]}))
    told, details = evidence.statuses(), evidence.details()
    assert told[f"{NAME} unanchored"] == "PASS"
    assert told[f"{NAME}.1 unanchored"] == "PASS"
    assert told[f"{NAME}.1-2 unanchored"] == "PASS"
    assert details[f"{NAME}.2 unanchored"].startswith("2 records (5..6)")


def test_an_anchor_that_is_only_listed_covers_nothing(evidence: Evidence) -> None:
    one = evidence.machines.opened[0]
    root = base64.b64encode(one.log.root()).decode()
    for backend in ("file", "rfc3161", "flare"):
        anchor: dict[str, object] = {
            "backend": backend,
            "size": one.log.size,
            "root": root,
            "consistency": [],
        }
        told = json.dumps({"anchors": [anchor]})
        (log_of(evidence.bundle, NAME) / "anchors.json").write_text(told)
        assert evidence.statuses()[f"{NAME} unanchored"] == "WARN"
        detail = evidence.details()[f"{NAME} unanchored"]
        assert detail.startswith(f"{one.log.size} records (0..")
        assert "is listed, and cannot be verified here" in detail


# --- the database itself ---


def checks(machines: Machines, key: VerifierKey | None = None) -> set[str]:
    engine = reading_engine(machines.place)
    with engine.connect() as connection, connection.begin():
        found = recheck(connection, key, lambda *_: None)
    engine.dispose()
    return {check.name for check in found if check.status != "PASS"}


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("DELETE FROM logs WHERE log = 3", "logs"),
        ("DELETE FROM logs WHERE log = 3; DELETE FROM trace WHERE log = 3", "logs"),
        ("DELETE FROM logs WHERE log = 1; DELETE FROM trace WHERE log = 1", "logs"),
        ("DELETE FROM trace WHERE log = 3 AND idx > 2; DELETE FROM checkpoints", "logs.heads"),
        ("UPDATE logs SET origin = origin || '9' WHERE log = 3", "checkpoints"),
    ],
)
def test_a_database_without_one_of_its_logs_is_named(
    evidence: Evidence, sql: str, named: str
) -> None:
    assert checks(evidence.machines) == checks(evidence.machines, evidence.key) == set()
    engine = writing_engine(evidence.machines.place)
    with engine.begin() as connection:
        for statement in sql.split("; "):
            connection.exec_driver_sql(statement)
    engine.dispose()
    assert named in checks(evidence.machines)


def test_slots_are_not_confused_by_the_lease(evidence: Evidence) -> None:
    machines = evidence.machines
    machines.time.now += slots.LEASE_SECONDS + 1
    again = machines.start("d")
    again.append(2)
    again.sign()
    assert checks(machines, evidence.key) == set()
