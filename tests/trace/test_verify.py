"""The tamper matrix: real bundles, edited as a forger would, and what the verifier says of each."""

import base64
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from gateway.registry.evidence import Wanted
from gateway.registry.traces import Filter
from gateway.store import tables
from gateway.trace.chain_proof import ANCHOR, ANCHORED
from gateway.trace.ethereum import keccak256
from gateway.trace.merkle import Frontier, consistency_proof, leaf_hash
from gateway.trace.note import VerifierKey
from tests.builders import World, a_state
from tests.trace.evidence_world import (
    PROJECT,
    Line,
    append,
    bodies,
    change,
    edit_document,
    edit_entry,
    entries,
    forge,
    judge,
    path_of,
    sign,
    write,
    write_entries,
)
from tests.trace.test_ethereum import Wallet


@dataclass(frozen=True)
class Evidence:
    world: World
    bundle: Path
    seen: Path
    """A checkpoint of 20 records, that an auditor took home earlier."""
    aside: Path


@pytest.fixture
def evidence(tmp_path: Path) -> Iterator[Evidence]:
    with a_state(tmp_path / "data") as world:
        append(world, 10, input=b'{"input":{"amount":1}}')
        seen = tmp_path / "seen.txt"
        seen.write_text(sign(world).note)
        append(world, 10, input=b'{"input":{"amount":2}}')
        world.state.writer.change_now(world.state.checkpoints.before_anchor)
        yield Evidence(world, write(world, tmp_path / "bundle"), seen, tmp_path)


def base64_of(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_what_nobody_touched_is_valid_and_says_what_it_cannot_show(evidence: Evidence) -> None:
    verdict = judge(evidence.world, evidence.bundle, previous=evidence.seen, min_size=41)
    assert verdict.code == 0
    assert verdict.checks == {
        "checkpoint.signature": "PASS",
        "records.inclusion": "PASS",
        "records.index": "PASS",
        "records.form": "PASS",
        "payload.commitments": "PASS",
        "project.sequence": "PASS",
        "completeness": "PASS",
        "consistency.previous": "PASS",
        "unanchored": "WARN",
        "logs": "PASS",
        "size.minimum": "PASS",
    }
    assert verdict.details["records.inclusion"] == "21 of 21"
    assert verdict.details["project.sequence"] == f"{PROJECT} pseq 0..19, no gap"
    assert verdict.details["completeness"] == "41 leaf hashes = root"
    assert verdict.details["consistency.previous"] == "20 -> 41"
    assert verdict.details["unanchored"].startswith("41 records (0..40)")
    assert judge(evidence.world, evidence.bundle, strict=True).code == 1


def test_a_zip_is_as_good_as_a_folder(evidence: Evidence) -> None:
    packed = evidence.aside / "bundle.zip"
    with zipfile.ZipFile(packed, "w") as out:
        for path in evidence.bundle.rglob("*"):
            out.write(path, path.relative_to(evidence.bundle))
    assert judge(evidence.world, packed).code == 0


# --- edits of files, one by one ---


def decision_edited(bundle: Path) -> None:
    def alter(line: Line) -> None:
        line["record"] = line["record"].replace('"ALLOW"', '"DENY"')

    edit_entry(bundle, 3, alter)


def index_moved(bundle: Path) -> None:
    edit_entry(bundle, 3, lambda line: line.update(index=line["index"] + 1))


def proofs_swapped(bundle: Path) -> None:
    lines = entries(bundle)
    lines[2]["proof"], lines[3]["proof"] = lines[3]["proof"], lines[2]["proof"]
    write_entries(bundle, lines)


def another_spelling(bundle: Path) -> None:
    edit_entry(bundle, 3, lambda line: line.update(record=line["record"].replace(",", ", ", 1)))


def payload_swapped(bundle: Path) -> None:
    lines = entries(bundle)
    lines[2]["disclosed"]["input"] = lines[15]["disclosed"]["input"]
    write_entries(bundle, lines)


def value_changed(bundle: Path) -> None:
    def alter(line: Line) -> None:
        line["disclosed"]["input"]["value"] = base64_of(b'{"input":{"amount":9}}')

    edit_entry(bundle, 3, alter)


def payload_invented(bundle: Path) -> None:
    def alter(line: Line) -> None:
        line["disclosed"]["why"] = line["disclosed"]["input"]

    edit_entry(bundle, 3, alter)


def record_left_out(bundle: Path) -> None:
    lines = entries(bundle)
    write_entries(bundle, lines[:5] + lines[6:])


def first_left_out(bundle: Path) -> None:
    write_entries(bundle, entries(bundle)[1:])


def last_left_out(bundle: Path) -> None:
    lines = entries(bundle)
    write_entries(bundle, lines[:19] + lines[20:])


def all_left_out(bundle: Path) -> None:
    write_entries(bundle, entries(bundle)[20:])


def record_twice(bundle: Path) -> None:
    lines = entries(bundle)
    write_entries(bundle, [*lines[:6], lines[5], *lines[6:]])


def order_changed(bundle: Path) -> None:
    lines = entries(bundle)
    write_entries(bundle, [lines[1], lines[0], *lines[2:]])


def in_file(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(bundle: Path) -> None:
        path = bundle / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def leaves_short(bundle: Path) -> None:
    path = bundle / "logs/0/leaves.bin"
    path.write_bytes(path.read_bytes()[:-32])


def leaves_cut(bundle: Path) -> None:
    path = bundle / "logs/0/leaves.bin"
    path.write_bytes(path.read_bytes()[:-5])


def leaf_changed(bundle: Path) -> None:
    path = bundle / "logs/0/leaves.bin"
    raw = path.read_bytes()
    path.write_bytes(raw[:64] + bytes(32) + raw[96:])


def leaves_longer(bundle: Path) -> None:
    path = bundle / "logs/0/leaves.bin"
    path.write_bytes(path.read_bytes() + bytes(32))


CHECKPOINT = "logs/0/checkpoint.txt"


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (decision_edited, {"records.inclusion", "project.sequence", "completeness"}),
        (index_moved, {"records.inclusion", "records.index", "completeness"}),
        (proofs_swapped, {"records.inclusion"}),
        (
            another_spelling,
            {"records.inclusion", "records.form", "project.sequence", "completeness"},
        ),
        (payload_swapped, {"payload.commitments"}),
        (value_changed, {"payload.commitments"}),
        (payload_invented, {"payload.commitments"}),
        (record_left_out, {"project.sequence"}),
        (first_left_out, {"project.sequence"}),
        (last_left_out, {"project.sequence"}),
        (all_left_out, {"project.sequence"}),
        (record_twice, {"records.index", "project.sequence"}),
        (order_changed, {"records.index", "project.sequence"}),
        (
            in_file(CHECKPOINT, "\n41\n", "\n40\n"),
            {"checkpoint.signature", "records.inclusion", "completeness"},
        ),
        (in_file(CHECKPOINT, "\n— ", "\n- "), {"checkpoint.signature"}),
        (leaves_short, {"completeness"}),
        (leaves_cut, {"completeness"}),
        (leaf_changed, {"completeness"}),
        (leaves_longer, {"completeness"}),
    ],
)
def test_a_change_is_named(
    evidence: Evidence, tamper: Callable[[Path], None], named: set[str]
) -> None:
    tamper(evidence.bundle)
    verdict = judge(evidence.world, evidence.bundle)
    assert verdict.failing == named, verdict.text
    assert verdict.code == 1


@pytest.mark.parametrize(
    "name",
    ["manifest.json", CHECKPOINT, "logs/0/entries.jsonl"],
)
@pytest.mark.parametrize("how", ["gone", "empty", "no UTF-8", "no JSON"])
def test_what_cannot_be_read_is_no_verdict_of_change(
    evidence: Evidence, name: str, how: str
) -> None:
    path = evidence.bundle / name
    content = {"gone": b"", "empty": b"", "no UTF-8": b"\xff\xfe\n\n", "no JSON": b"[{]\n"}[how]
    path.write_bytes(content)
    if how == "gone":
        path.unlink()
    verdict = judge(evidence.world, evidence.bundle)
    # An empty list of records, or a checkpoint of other bytes, is readable: and it is a change.
    readable = name == CHECKPOINT and how in ("empty", "no JSON")
    readable |= name == "logs/0/entries.jsonl" and how == "empty"
    assert verdict.code == (1 if readable and name == CHECKPOINT else 0 if readable else 3)


def test_half_a_zip_cannot_be_told(evidence: Evidence) -> None:
    path = evidence.aside / "half.zip"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    assert judge(evidence.world, path).code == 3
    assert judge(evidence.world, evidence.aside / "none.zip").code == 3


def test_another_key_under_the_logs_name_is_a_change(evidence: Evidence) -> None:
    key = VerifierKey(evidence.world.state.log.origin, b"k" * 32)
    verdict = judge(evidence.world, evidence.bundle, key=str(key))
    assert (verdict.code, verdict.failing) == (1, {"checkpoint.signature"})


def test_a_key_of_another_log_cannot_tell(evidence: Evidence) -> None:
    key = VerifierKey("other.example/log", b"k" * 32)
    assert judge(evidence.world, evidence.bundle, key=str(key)).code == 3


def test_erasing_changes_nothing_that_is_proven(evidence: Evidence) -> None:
    change(evidence.world, "DELETE FROM payloads WHERE idx < 6")
    verdict = judge(evidence.world, write(evidence.world, evidence.bundle))
    assert verdict.code == 0
    assert verdict.details["payload.commitments"] == "17 match, 3 erased, 0 not disclosed"


def test_without_disclosure_the_values_are_not_in_the_bundle(evidence: Evidence) -> None:
    bundle = write(evidence.world, evidence.bundle, wanted=Wanted(Filter()))
    verdict = judge(evidence.world, bundle)
    assert verdict.details["payload.commitments"] == "0 match, 0 erased, 20 not disclosed"
    assert verdict.checks["completeness"] == "SKIP"
    assert all("disclosed" not in line for line in entries(bundle))


# --- what whoever holds the log key can do, and what shows it ---


def test_history_rewritten_and_signed_again_shows_against_an_earlier_checkpoint(
    evidence: Evidence,
) -> None:
    forged = [body.replace(b'"ALLOW"', b'"DENY"') for body in chained(bodies(evidence.world))]
    bundle = forge(evidence.world, evidence.aside / "forged", chained(forged), evidence.bundle)
    alone = judge(evidence.world, bundle)
    assert alone.code == 0  # the key's holder can do that; see `unanchored`
    verdict = judge(evidence.world, bundle, previous=evidence.seen)
    assert (verdict.code, verdict.failing) == (1, {"consistency.previous"})


def chained(records: list[bytes]) -> list[bytes]:
    """The records with each `pprev` made to fit the one before."""
    heads: dict[str, str] = {}
    out = []
    for body in records:
        record = orjson.loads(body)
        if record["kind"] == "heads":
            record["projects"] = []
        record["pprev"] = heads.get(record["project"], "")
        raw = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        heads[record["project"]] = leaf_hash(raw).hex()
        out.append(raw)
    return out


@pytest.mark.parametrize("kept", [15, 19])
def test_truncation_below_what_was_seen_shows(evidence: Evidence, kept: int) -> None:
    cut = bodies(evidence.world)[:kept]
    bundle = forge(evidence.world, evidence.aside / "forged", cut, evidence.bundle)
    verdict = judge(evidence.world, bundle, previous=evidence.seen)
    assert (verdict.code, verdict.failing) == (1, {"consistency.previous"})
    verdict = judge(evidence.world, bundle, min_size=20)
    assert (verdict.code, verdict.failing) == (1, {"size.minimum"})


def test_a_tail_dropped_after_what_was_seen_is_valid_and_warned_of(evidence: Evidence) -> None:
    cut = bodies(evidence.world)[:30]
    bundle = forge(evidence.world, evidence.aside / "forged", cut, evidence.bundle)
    verdict = judge(evidence.world, bundle, previous=evidence.seen)
    assert verdict.code == 0
    assert verdict.checks["unanchored"] == "WARN"
    assert judge(evidence.world, bundle, min_size=41).code == 1


def test_a_previous_checkpoint_needs_a_proof_or_the_leaves(evidence: Evidence) -> None:
    (evidence.bundle / "logs/0/leaves.bin").unlink()
    assert judge(evidence.world, evidence.bundle, previous=evidence.seen).code == 3
    wanted = Wanted(Filter(), previous_sizes=(20,))
    bundle = write(evidence.world, evidence.bundle, wanted=wanted)
    verdict = judge(evidence.world, bundle, previous=evidence.seen)
    assert (verdict.code, verdict.checks["consistency.previous"]) == (0, "PASS")
    edit_document(
        bundle, "logs/0/consistency.json", lambda d: d.update({"20": [base64_of(bytes(32))]})
    )
    assert judge(evidence.world, bundle, previous=evidence.seen).code == 1


# --- anchors ---


WALLET = Wallet(7)
WRITER = "0x" + WALLET.address.hex()
BACKEND = "flare:114:33333333:4a623166"
CONTRACT = b"\x33" * 20


def anchored(
    evidence: Evidence, size: int, records: list[bytes] | None = None, **changed: Any
) -> bytes:
    """Say in the bundle that the head of this size is on chain; returns its root."""
    frontier = Frontier()
    for body in (records or bodies(evidence.world))[:size]:
        frontier.add(leaf_hash(body), lambda *_: None)
    root = frontier.root()
    leaves = [leaf_hash(body) for body in bodies(evidence.world)]

    def mth(start: int, end: int) -> bytes:
        part = Frontier()
        for leaf in leaves[start:end]:
            part.add(leaf, lambda *_: None)
        return part.root()

    proof = [base64_of(one) for one in consistency_proof(size, len(leaves), mth)]
    log_id = keccak256(evidence.world.state.log.origin.encode())
    raw = WALLET.signed(CONTRACT, ANCHOR + log_id + size.to_bytes(32) + root)
    one = {"backend": BACKEND, "size": size, "root": base64_of(root), "consistency": proof}
    one |= {"tx_hash": "0x" + keccak256(raw).hex(), "proof": base64_of(raw)} | changed
    (evidence.bundle / "logs/0/anchors.json").write_text(json.dumps({"anchors": [one]}))
    return root


def test_what_was_anchored_is_in_the_bundle_with_its_proof(evidence: Evidence) -> None:
    root = anchored(evidence, 30)
    (told,) = json.loads((evidence.bundle / "logs/0/anchors.json").read_text())["anchors"]
    world = evidence.world
    row = {
        "id": "anc_1",
        "backend": BACKEND,
        "log": 0,
        "origin": world.state.log.origin,
        "size": 30,
        "root": root,
        "note": "",
        "state": "final",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "anchored_at": "2026-01-01T00:00:00.000000Z",
        "tx_hash": told["tx_hash"],
        "block": 16,
        "proof": base64.b64decode(told["proof"]),
    }
    backend = {"name": BACKEND, "identity": {}, "enabled": True, "condition": "ok", "detail": ""}
    backend |= {"since": row["created_at"]}
    world.change(lambda c: c.execute(insert(tables.anchor_backends).values(**backend)).rowcount)
    world.change(lambda c: c.execute(insert(tables.anchors).values(**row)).rowcount)
    verdict = judge(world, write(world, evidence.bundle), writer=WRITER)
    assert verdict.checks["anchor.flare.30"] == "PASS"
    assert verdict.details["unanchored"].startswith("11 records (30..40)")


class Node(BaseHTTPRequestHandler):
    """A node of the chain that answers what the test says."""

    answers: dict[str, Any]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": self.answers[asked["method"]]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def a_node(receipt: Any, chain_id: int = 114) -> Iterator[str]:
    answers = {"eth_chainId": hex(chain_id), "eth_getTransactionReceipt": receipt}
    handler = type("Answering", (Node,), {"answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def a_receipt(evidence: Evidence, size: int, root: bytes, **changed: Any) -> dict[str, Any]:
    topics = [
        "0x" + one.hex()
        for one in (
            ANCHORED,
            bytes(12) + WALLET.address,
            keccak256(evidence.world.state.log.origin.encode()),
            size.to_bytes(32),
        )
    ]
    event = {"address": "0x" + CONTRACT.hex(), "topics": topics, "data": "0x" + root.hex()}
    return {"status": "0x1", "blockNumber": "0x10", "logs": [event]} | changed


def test_the_signed_transaction_shows_who_anchored_what_without_a_node(
    evidence: Evidence,
) -> None:
    anchored(evidence, 30)
    verdict = judge(evidence.world, evidence.bundle, writer=WRITER)
    assert verdict.checks["anchor.flare.30"] == "PASS"
    assert verdict.details["anchor.flare.30"].startswith(f"writer {WRITER} tx 0x")
    assert "chain inclusion NOT CHECKED" in verdict.details["anchor.flare.30"]
    other = judge(evidence.world, evidence.bundle, writer="0x" + "9" * 40)
    assert (other.code, other.failing) == (1, {"anchor.flare.30"})


@pytest.mark.parametrize(
    "changed",
    [
        {"proof": base64_of(b"no transaction")},
        {"proof": base64_of(WALLET.signed(CONTRACT, b"something else"))},
        {"tx_hash": "0x" + "1" * 64},
    ],
)
def test_a_transaction_that_anchors_something_else_is_a_change(
    evidence: Evidence, changed: dict[str, Any]
) -> None:
    anchored(evidence, 30, **changed)
    verdict = judge(evidence.world, evidence.bundle)
    assert (verdict.code, verdict.failing) == (1, {"anchor.flare.30"})
    assert verdict.details["unanchored"].startswith("41 records")


def test_a_node_says_whether_the_chain_took_it(evidence: Evidence) -> None:
    root = anchored(evidence, 30)

    def said(receipt: Any, chain_id: int = 114) -> tuple[int, str]:
        with a_node(receipt, chain_id) as url:
            verdict = judge(evidence.world, evidence.bundle, rpc=url)
            return verdict.code, verdict.checks["anchor.flare.30"]

    assert said(a_receipt(evidence, 30, root)) == (0, "PASS")
    assert said(a_receipt(evidence, 30, root, status="0x0")) == (1, "FAIL")
    assert said(a_receipt(evidence, 30, bytes(32))) == (1, "FAIL")
    assert said(a_receipt(evidence, 29, root)) == (1, "FAIL")
    assert said(a_receipt(evidence, 30, root, logs=[])) == (1, "FAIL")
    assert said(None) == (3, "CANNOT TELL")
    assert said(a_receipt(evidence, 30, root), chain_id=14) == (3, "CANNOT TELL")


def test_a_node_that_is_down_is_no_verdict(evidence: Evidence) -> None:
    anchored(evidence, 30)
    with a_node(None) as url:
        pass
    verdict = judge(evidence.world, evidence.bundle, rpc=url)
    assert (verdict.code, verdict.checks["anchor.flare.30"]) == (3, "CANNOT TELL")


def test_records_after_the_last_anchor_are_counted(evidence: Evidence) -> None:
    anchored(evidence, 30)
    verdict = judge(evidence.world, evidence.bundle)
    assert verdict.checks["anchor.flare.30"] == "PASS"
    assert verdict.details["unanchored"].startswith("11 records (30..40)")
    anchored(evidence, 41)
    verdict = judge(evidence.world, evidence.bundle)
    assert verdict.checks["unanchored"] == "PASS"
    assert judge(evidence.world, evidence.bundle, strict=True).code == 0


def test_a_log_that_does_not_extend_its_anchor_is_a_change(evidence: Evidence) -> None:
    anchored(evidence, 30, [b"other", *bodies(evidence.world)[1:]])
    verdict = judge(evidence.world, evidence.bundle)
    assert (verdict.code, verdict.failing) == (1, {"anchor.flare.30"})
    assert verdict.details["unanchored"].startswith("41 records (0..40)")


# --- filters, spans and several logs ---


def test_a_filter_in_the_manifest_takes_the_claim_away_and_says_so(evidence: Evidence) -> None:
    record_left_out(evidence.bundle)
    edit_document(evidence.bundle, "manifest.json", lambda d: d["filter"].update(decision="ALLOW"))
    verdict = judge(evidence.world, evidence.bundle)
    assert verdict.checks["project.sequence"] == "SKIP"
    assert verdict.details["project.sequence"] == "NOT CLAIMED (filter decision)"


def test_a_log_that_was_sealed_is_not_left_out(tmp_path: Path) -> None:
    with a_state(tmp_path / "data") as world:
        append(world, 5)
        sign(world)
        key = world.state.checkpoints.verifier_key
        world.state.writer.change_now(lambda c: world.state.log.succeed(c, "a drill"))
        append(world, 3)
        sign(world)
        bundle = write(world, tmp_path / "bundle", wanted=Wanted(Filter(), leaves=True))
        verdict = judge(world, bundle, key=key, min_size=17)
        assert verdict.code == 0, verdict.text
        assert verdict.details["logs"] == "2 of 2"
        for path in (bundle / "logs/0").iterdir():
            path.unlink()
        verdict = judge(world, bundle, key=key)
        assert verdict.failing == {"logs"}


def test_evidence_of_a_damaged_log_is_written_and_shows_the_damage(tmp_path: Path) -> None:
    with a_state(tmp_path / "data") as world:
        append(world, 5)
        sign(world)
        key = world.state.checkpoints.verifier_key
        change(world, "DELETE FROM trace WHERE idx = 4")
    with a_state(tmp_path / "data") as world:
        append(world, 3)
        sign(world)
        wanted = Wanted(Filter(), leaves=True, previous_sizes=(3,))
        verdict = judge(world, write(world, tmp_path / "bundle", wanted=wanted), key=key)
        assert verdict.code == 1
        assert verdict.failing == {"records.inclusion", "project.sequence", "completeness"}


def test_the_path_of_the_forger_is_the_path_of_the_log(evidence: Evidence) -> None:
    leaves = [leaf_hash(body) for body in bodies(evidence.world)]
    for line in entries(evidence.bundle):
        own: list[Any] = [base64_of(one) for one in path_of(line["index"], leaves)]
        assert own == line["proof"]
