"""Evidence over the API: proofs that a stranger can check, exports, and payloads that are gone."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.clock import after
from gateway.ids import new_id
from gateway.registry import erasure
from gateway.trace import note
from gateway.trace.bundle import Bundle
from gateway.trace.merkle import includes, leaf_hash
from gateway.trace.note import VerifierKey
from gateway.trace.record import Draft, Field
from gateway.trace.trust import Trust
from gateway.trace.verdicts import Check
from gateway.trace.verify import verify
from gateway.values import Role
from tests import places
from tests.api.world import World

pytestmark = pytest.mark.anyio


def append(
    world: World,
    kind: str = "decision",
    call: str | None = None,
    payloads: dict[str, bytes] | None = None,
    days: int = 30,
    **fields: Field,
) -> str:
    call = call or new_id("trc")
    record_id = call if kind == "decision" else new_id("trc")
    draft = Draft(
        kind, record_id, world.project_id, fields, payloads or {}, call_id=call, retention_days=days
    )
    world.state.writer.change_now(lambda c: world.state.log.append(c, [draft])[0].idx)
    return call


async def get(world: World, path: str, role: Role = Role.AUDITOR) -> Any:
    async with world.client(role) as client:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


async def bundle_of(world: World, folder: Path, **body: Any) -> Path:
    async with world.client(Role.AUDITOR) as client:
        answer = await client.post("evidence", json=body)
        assert answer.status_code == 200, answer.text
        path = folder / f"{new_id('evd')}.zip"
        path.write_bytes(answer.content)
        return path


def trust(world: World) -> Trust:
    return Trust(VerifierKey.parse(world.state.checkpoints.verifier_key))


def checked(world: World, path: Path) -> dict[str, Check]:
    bundle = Bundle(path)
    try:
        return {check.name: check for check in verify(bundle, trust(world))}
    finally:
        bundle.close()


def events(world: World, event: str) -> list[dict[str, Any]]:
    with world.state.reader.connect() as connection:
        bodies = connection.exec_driver_sql("SELECT body FROM trace ORDER BY idx").scalars()
        return [body for raw in bodies if (body := orjson.loads(raw)).get("event") == event]


async def test_a_proof_shows_every_record_of_a_call_to_a_stranger(world: World) -> None:
    call = append(world, decision="ALLOW")
    append(world, "outcome", call, status="ok")
    key = VerifierKey.parse(world.state.checkpoints.verifier_key)
    answer = await get(world, f"traces/{call}/proof")
    assert [json.loads(p["record"])["kind"] for p in answer["proofs"]] == ["decision", "outcome"]
    for told in answer["proofs"]:
        head = note.checkpoint(told["checkpoint"]["note"], key)
        leaf = leaf_hash(told["record"].encode())
        assert told["leaf"] == leaf.hex()
        proof = [bytes.fromhex(one) for one in told["proof"]]
        assert includes(told["index"], head.size, leaf, proof, head.root)
        lines = told["tlog_proof"].split("\n")
        assert lines[:2] == ["c2sp.org/tlog-proof@v1", f"index {told['index']}"]
        assert told["tlog_proof"].endswith("\n\n" + told["checkpoint"]["note"])


async def test_the_latest_checkpoint_is_of_this_moment(world: World) -> None:
    key = VerifierKey.parse(world.state.checkpoints.verifier_key)
    for _ in range(2):
        append(world)
        told = await get(world, "checkpoints/latest")
        head = note.checkpoint(told["note"], key)
        assert (head.size, head.root) == (world.state.log.size, world.state.log.root())
        assert (told["size"], told["root"]) == (head.size, head.root.hex())
        assert told["verifier_key"] == str(key)


async def test_a_bundle_of_everything_is_valid_and_whole(world: World, tmp_path: Path) -> None:
    for number in range(40):
        append(world, payloads={"input": b'{"input":%d}' % number}, decision="ALLOW")
    path = await bundle_of(world, tmp_path, disclose=True, leaves=True)
    checks = checked(world, path)
    assert {c.status for c in checks.values()} == {"PASS", "WARN"}
    matched = int(checks["payload.commitments"].detail.partition(" match")[0])
    assert matched >= 40
    assert checks["payload.commitments"].detail.endswith("0 erased, 0 not disclosed")
    assert f"{world.project_id} pseq 0.." in checks["project.sequence"].detail
    assert checks["completeness"].detail.endswith("leaf hashes = root")
    with zipfile.ZipFile(path) as bundle:
        assert world.foreign_id not in bundle.read("logs/0/entries.jsonl").decode()


async def test_a_bundle_with_a_filter_claims_no_completeness(world: World, tmp_path: Path) -> None:
    for action in ("ALLOW", "DENY", "ALLOW"):
        append(world, decision=action)
    path = await bundle_of(world, tmp_path, decision="DENY")
    sequence = checked(world, path)["project.sequence"]
    assert (sequence.status, sequence.detail) == ("SKIP", "NOT CLAIMED (filter decision)")


async def test_a_span_of_time_is_claimed_whole_for_itself(world: World, tmp_path: Path) -> None:
    append(world)
    now = world.state.clock.now()
    append(world)
    append(world)
    path = await bundle_of(world, tmp_path, **{"from": now})
    sequence = checked(world, path)["project.sequence"]
    assert sequence.status == "PASS"
    assert "pseq 0.." not in sequence.detail


async def test_two_pages_of_records_are_written_in_order(world: World, tmp_path: Path) -> None:
    drafts = [Draft("event", new_id("evt"), world.project_id) for _ in range(1_203)]
    world.state.writer.change_now(lambda c: len(world.state.log.append(c, drafts)))
    world.state.writer.change_now(world.state.checkpoints.before_anchor)
    append(world)
    checks = checked(world, await bundle_of(world, tmp_path, leaves=True))
    assert "FAIL" not in {c.status for c in checks.values()}
    assert "heads record" not in checks["project.sequence"].detail


async def test_earlier_checkpoints_are_shown_to_be_extended(world: World, tmp_path: Path) -> None:
    append(world)
    before = await get(world, "checkpoints/latest")
    append(world)
    path = await bundle_of(world, tmp_path, previous_sizes=[before["size"]])
    bundle = Bundle(path)
    seen = Trust(trust(world).key, previous=before["note"])
    checks = {c.name: c for c in verify(bundle, seen)}
    bundle.close()
    assert checks["consistency.previous"].status == "PASS"


async def test_the_policies_that_decided_are_in_the_bundle(world: World, tmp_path: Path) -> None:
    world.upstream.archives["sha256:" + "a" * 64] = b"archive"
    append(world, decision="ALLOW", policy="sha256:" + "a" * 64)
    append(world, decision="ALLOW", policy="sha256:" + "b" * 64)  # not kept any more
    path = await bundle_of(world, tmp_path, policies=True)
    with zipfile.ZipFile(path) as bundle:
        found = [name for name in bundle.namelist() if name.startswith("policy/")]
        assert found == [f"policy/sha256-{'a' * 64}.tar.gz"]
        assert bundle.read(found[0]) == b"archive"


async def test_whoever_takes_records_out_is_on_the_trail(world: World, tmp_path: Path) -> None:
    await bundle_of(world, tmp_path, disclose=True)
    async with world.client(Role.AUDITOR) as client:
        await client.get("export?format=csv")
    auditor = world.state.directory.key_of(world.keys[Role.AUDITOR])
    assert auditor is not None
    for event in ("audit_read.evidence", "audit_read.export"):
        (told,) = events(world, event)
        assert told["actor"] == auditor.id


# --- export ---


async def export(world: World, query: str) -> str:
    async with world.client(Role.AUDITOR) as client:
        answer = await client.get(f"export?{query}")
        assert answer.status_code == 200, answer.text
        return answer.text


async def test_the_records_are_exported_as_they_were_hashed(world: World) -> None:
    calls = [append(world, decision="ALLOW") for _ in range(3)]
    lines = [line for line in (await export(world, "kind=decision")).splitlines()]
    assert [json.loads(line)["record"]["call"] for line in lines] == calls
    for line in lines:
        body = line.split('"record":', 1)[1][:-1].encode()
        assert json.loads(line)["leaf"] == leaf_hash(body).hex()


async def test_more_than_a_page_is_exported_once_each(world: World) -> None:
    drafts = [Draft("event", new_id("evt"), world.project_id) for _ in range(2_500)]
    world.state.writer.change_now(lambda c: len(world.state.log.append(c, drafts)))
    lines = (await export(world, "kind=event")).splitlines()
    places = [json.loads(line)["record"]["idx"] for line in lines]
    assert places == sorted(set(places))
    assert len(places) >= 2_500


@pytest.mark.parametrize(
    "tool", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "|x", "%0"]
)
async def test_a_cell_that_a_spreadsheet_would_run_is_text(world: World, tool: str) -> None:
    append(world, tool=tool, decision="ALLOW")
    rows = list(csv.DictReader(io.StringIO(await export(world, "format=csv&kind=decision"))))
    assert rows[0]["tool"] == "'" + tool
    assert rows[0]["decision"] == "ALLOW"


# --- erasure ---


def files_hold(world: World, needle: bytes) -> bool:
    return needle in places.stored(world.state.data_dir)


async def test_what_is_erased_is_in_no_file_and_its_proof_stays(
    world: World, tmp_path: Path
) -> None:
    call = append(world, payloads={"input": b'{"input":1}', "why": b"[]"}, decision="ALLOW")
    other = append(world, payloads={"input": b'{"input":2}'}, decision="ALLOW")
    sealed = _sealed(world, call)
    assert len(sealed) == 2
    assert all(files_hold(world, one) for one in sealed)
    async with world.client() as client:
        answer = await client.request(
            "DELETE", f"traces/{call}/payload", json={"reason": "asked by the person"}
        )
        assert answer.json() == {"trace_id": call, "erased": 2, "bytes_gone": not places.shared()}
    assert not any(files_hold(world, one) for one in sealed)
    assert all(files_hold(world, one) for one in _sealed(world, other))
    (told,) = events(world, "payload.erased")
    assert (told["trace"], len(told["fields"])) == (call, 2)
    checks = checked(world, await bundle_of(world, tmp_path, disclose=True, leaves=True))
    assert "FAIL" not in {c.status for c in checks.values()}
    assert "2 erased" in checks["payload.commitments"].detail
    trace = await get(world, f"traces/{call}")
    assert trace["records"][0]["payloads"]["input"]["encoding"] == "erased"


def _sealed(world: World, call: str) -> list[bytes]:
    with world.state.reader.connect() as connection:
        sql = "SELECT sealed FROM payloads JOIN trace USING (log, idx) WHERE call_id = ?"
        return [row[0] for row in connection.exec_driver_sql(places.sql(sql), (call,))]


@pytest.mark.sqlite("its journal is what is emptied")
async def test_a_reader_of_an_older_state_delays_it_and_no_longer(world: World) -> None:
    call = append(world, payloads={"input": b'{"input":1}'}, decision="ALLOW")
    (sealed,) = _sealed(world, call)
    with world.state.reader.connect() as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM payloads").all()
        async with world.client() as client:
            answer = await client.request("DELETE", f"traces/{call}/payload", json={"reason": "x"})
        assert answer.json()["bytes_gone"] is False
        assert world.state.vacated.waiting
    append(world)
    assert not world.state.vacated.waiting
    assert not files_hold(world, sealed)


async def test_what_an_approver_still_has_to_see_is_not_erased(world: World) -> None:
    _, secret = world.key()
    call = append(world, payloads={"input": b"{}"}, decision="REQUIRE_APPROVAL")
    pending = world.approval(secret, trace_id=call)
    async with world.client() as client:
        body = {"reason": "asked by the person"}
        answer = await client.request("DELETE", f"traces/{call}/payload", json=body)
        assert answer.status_code == 409
        world.state.writer.change_now(
            lambda c: c.exec_driver_sql("UPDATE approvals SET state = 'DENIED'").rowcount
        )
        answer = await client.request("DELETE", f"traces/{call}/payload", json=body)
        assert answer.status_code == 200
        shown = await client.get(f"approvals/{pending}")
        assert shown.status_code == 200
        assert shown.json()["call"] is None


async def test_only_an_admin_erases_and_only_what_is_the_projects(world: World) -> None:
    call = append(world, payloads={"input": b"{}"})
    body = {"reason": "asked by the person"}
    for key, status in ((Role.AUDITOR, 403), (world.foreign, 404), (Role.ADMIN, 200)):
        async with world.client(key) as client:
            answer = await client.request("DELETE", f"traces/{call}/payload", json=body)
            assert answer.status_code == status


async def test_payloads_whose_time_is_over_go_by_themselves(world: World) -> None:
    gone = append(world, payloads={"input": b'{"input":1}'}, days=-1)
    kept = append(world, payloads={"input": b'{"input":2}'}, days=1)
    (sealed,) = _sealed(world, gone)
    state = world.state
    counts = [
        state.writer.change_now(lambda c: erasure.expire(c, state.log, state.vacated))
        for _ in range(2)
    ]
    assert counts == [1, 0]
    assert (_sealed(world, gone), len(_sealed(world, kept))) == ([], 1)
    assert not files_hold(world, sealed)
    told = events(world, "payload.expired")[0]
    assert (told["project"], told["count"]) == (world.project_id, 1)


def _wrapped(world: World) -> dict[str, bytes]:
    with world.state.reader.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, wrapped FROM payload_keys").all()
        return {row.id.rpartition("/")[2]: row.wrapped for row in rows}


async def test_the_key_of_a_month_that_is_past_is_dropped_with_all_that_it_opens(
    world: World, tmp_path: Path
) -> None:
    state = world.state
    gone = append(world, payloads={"input": b'{"input":1}'}, days=-40, decision="ALLOW")
    kept = append(world, payloads={"input": b'{"input":2}'}, days=30, decision="ALLOW")
    month, this = (f"until-{after(state.clock.now(), days * 86_400)[:7]}" for days in (-40, 30))
    before = _wrapped(world)
    (sealed,) = _sealed(world, gone)
    assert files_hold(world, before[month])
    state.writer.change_now(lambda c: erasure.expire(c, state.log, state.vacated))
    assert _wrapped(world) == {name: one for name, one in before.items() if name != month}
    assert this in _wrapped(world)
    assert not any(files_hold(world, one) for one in (before[month], sealed))
    assert len(_sealed(world, kept)) == 1
    rows, key = events(world, "payload.expired")
    assert (rows["count"], rows["subject"]) == (1, "payloads")
    assert (key["subject"], key["month"]) == ("payload_key", month.removeprefix("until-"))
    # A key of that name is another one: what the old one sealed, in a copy too, stays unreadable.
    append(world, payloads={"input": b"{}"}, days=-40)
    assert _wrapped(world)[month] != before[month]
    checks = checked(world, await bundle_of(world, tmp_path, disclose=True, leaves=True))
    assert "FAIL" not in {c.status for c in checks.values()}


async def test_while_some_of_its_payloads_are_left_a_key_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "_EXPIRED_AT_ONCE", 2)
    for _ in range(3):
        append(world, payloads={"input": b"{}"}, days=-40)
    state = world.state
    held = len(_wrapped(world))
    for left in (held, held - 1):
        state.writer.change_now(lambda c: erasure.expire(c, state.log, state.vacated))
        assert len(_wrapped(world)) == left
