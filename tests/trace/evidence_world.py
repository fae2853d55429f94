"""A real log with evidence of it on disk, as an auditor gets it, to be read and tampered with."""

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gateway.ids import new_id
from gateway.registry.evidence import BundleWriter, Wanted
from gateway.registry.traces import Filter
from gateway.trace import note
from gateway.trace.checkpoint import Signed
from gateway.trace.merkle import Frontier, leaf_hash
from gateway.trace.note import Checkpoint
from gateway.trace.record import Draft
from gateway.trace.verify_command import run, trusted
from gateway.values import ProjectId
from tests.builders import World

PROJECT = ProjectId("prj_1")


def append(world: World, count: int = 1, **payloads: bytes) -> None:
    """Decisions of the project, each beside a record of somebody else's."""
    drafts = []
    for _ in range(count):
        call = new_id("trc")
        fields = {"decision": "ALLOW", "tool": "query_records"}
        drafts.append(Draft("decision", call, PROJECT, fields, payloads, call_id=call))
        drafts.append(Draft("event", new_id("evt"), ProjectId("prj_other")))
    world.state.writer.change_now(lambda c: world.state.log.append(c, drafts))


def sign(world: World) -> Signed:
    signed = world.state.writer.change_now(world.state.checkpoints.make)
    assert signed is not None
    return signed


def change(world: World, sql: str, *parameters: Any) -> None:
    def alter(connection: Connection) -> None:
        connection.exec_driver_sql(sql, parameters)

    world.state.writer.change_now(alter)


def write(
    world: World,
    folder: Path,
    *,
    wanted: Wanted | None = None,
    policies: dict[str, bytes] | None = None,
) -> Path:
    """The bundle of everything, unpacked."""
    state = world.state
    asked = wanted or Wanted(Filter(), disclose=True, leaves=True)
    file = io.BytesIO()
    writer = BundleWriter(state.reader, state.keyring, PROJECT, asked, state.clock.now(), file)
    writer.write()
    for digest, archive in (policies or {}).items():
        writer.add_policy(digest, archive)
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(file) as bundle:
        bundle.extractall(folder)
    return folder


@dataclass(frozen=True)
class Verdict:
    code: int
    checks: dict[str, str]
    """Status by name, of the first log where there are several."""
    details: dict[str, str]
    text: str

    @property
    def failing(self) -> set[str]:
        return {name for name, status in self.checks.items() if status == "FAIL"}


def judge(world: World, bundle: Path, **given: Any) -> Verdict:
    """What `gateway-verify` says of it, trusting the world's own key."""
    key = given.pop("key", world.state.checkpoints.verifier_key)
    trust = trusted(key, given.pop("previous", None), given.pop("min_size", 0))
    trust = replace(trust, writer=given.pop("writer", None), rpc=given.pop("rpc", None))
    trust = replace(trust, tsa_ca=given.pop("tsa_ca", None))
    strict = given.pop("strict", False)
    said = io.StringIO()
    with redirect_stdout(said):
        code = run(bundle, trust, strict=strict, as_json=True, **given)
    told = json.loads(said.getvalue())
    assert told["exit_code"] == code
    checks: dict[str, str] = {}
    details: dict[str, str] = {}
    for check in told["checks"]:
        checks.setdefault(check["name"], check["status"])
        details.setdefault(check["name"], check["detail"])
    return Verdict(code, checks, details, said.getvalue())


# --- the bundle's files, edited ---

Line = dict[str, Any]


def entries(bundle: Path) -> list[Line]:
    lines = (bundle / "logs/0/entries.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def write_entries(bundle: Path, lines: list[Line]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (bundle / "logs/0/entries.jsonl").write_text(text)


def edit_entry(bundle: Path, place: int, alter: Callable[[Line], None]) -> None:
    lines = entries(bundle)
    alter(lines[place])
    write_entries(bundle, lines)


def edit_document(bundle: Path, name: str, alter: Callable[[Line], None]) -> None:
    document = json.loads((bundle / name).read_text())
    alter(document)
    (bundle / name).write_text(json.dumps(document))


def forge(world: World, folder: Path, bodies: list[bytes], like: Path) -> Path:
    """The bundle that whoever holds database and log key makes of other records."""
    shutil.copytree(like, folder)
    leaves = [leaf_hash(body) for body in bodies]
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf, lambda *_: None)
    head = Checkpoint(world.state.log.origin, len(bodies), frontier.root())
    (folder / "logs/0/checkpoint.txt").write_text(note.sign(head, world.state.keyring.log))
    (folder / "logs/0/leaves.bin").write_bytes(b"".join(leaves))
    lines = []
    for index, body in enumerate(bodies):
        if json.loads(body)["project"] == PROJECT:
            proof = [base64.b64encode(one).decode() for one in path_of(index, leaves)]
            lines.append({"index": index, "record": body.decode(), "proof": proof})
    write_entries(folder, lines)
    return folder


def path_of(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]) as RFC 6962, section 2.1.1, defines it: by recursion."""

    def root(of: list[bytes]) -> bytes:
        frontier = Frontier()
        for leaf in of:
            frontier.add(leaf, lambda *_: None)
        return frontier.root()

    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*path_of(index, leaves[:split]), root(leaves[split:])]
    return [*path_of(index - split, leaves[split:]), root(leaves[:split])]


def bodies(world: World) -> list[bytes]:
    return [row[0] for row in world.rows("SELECT body FROM trace ORDER BY idx")]


def decision_of(record: str, **changed: Any) -> str:
    """A record's text with other fields."""
    return json.dumps({**json.loads(record), **changed})
