"""Time stamps in a bundle, verified with nothing but the roots that an auditor brings."""

import sys
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from gateway.cli import command_line
from gateway.store import tables
from tests.anchors.authority import Authority
from tests.builders import World, a_state
from tests.trace.evidence_world import Verdict, append, judge, sign, write

NAME = "anchor.rfc3161"


@dataclass(frozen=True)
class Stamped:
    """A bundle of twelve records whose first eleven and a head were stamped."""

    world: World
    bundle: Path
    note: str
    answer: bytes
    size: int

    def judged(self, roots: bytes | None, **changed: str) -> Verdict:
        """With the anchor as the gateway wrote it, but for what is changed."""
        file = self.bundle / "logs/0/anchors.json"
        before = file.read_bytes()
        document = orjson.loads(before)
        document["anchors"][0] |= changed
        file.write_bytes(orjson.dumps(document))
        try:
            return judge(self.world, self.bundle, tsa_ca=roots)
        finally:
            file.write_bytes(before)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "authority")


@pytest.fixture(scope="module")
def stamped(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("stamped")
    with a_state(folder / "data") as world:
        append(world, 10, input=b"{}")
        head = sign(world)
        answer = authority.stamped(head.note.encode())
        kept(world, head.note, head.checkpoint.size, head.checkpoint.root, answer)
        append(world, 1, input=b"{}")
        sign(world)
        bundle = write(world, folder / "bundle")
        yield Stamped(world, bundle, head.note, answer, head.checkpoint.size)


def kept(world: World, note: str, size: int, root: bytes, answer: bytes) -> None:
    """As the anchor worker leaves it."""
    at = "2026-01-01T00:00:00.000000Z"
    backend = {"name": "rfc3161", "identity": {"url": "https://tsa.example"}, "enabled": True}
    backend |= {"condition": "ok", "detail": "", "since": at}
    row = {"id": "anc_1", "backend": "rfc3161", "log": 0, "origin": world.state.log.origin}
    row |= {"size": size, "root": root, "note": note, "state": "final", "created_at": at}
    row |= {"anchored_at": at, "proof": answer}
    world.change(lambda c: c.execute(insert(tables.anchor_backends).values(**backend)).rowcount)
    world.change(lambda c: c.execute(insert(tables.anchors).values(**row)).rowcount)


def test_a_stamp_under_the_auditors_root_covers_what_it_stamps(
    stamped: Stamped, authority: Authority
) -> None:
    verdict = stamped.judged(authority.roots)
    name = f"{NAME}.{stamped.size}"
    assert (verdict.code, verdict.checks[name]) == (0, "PASS"), verdict.text
    # The time is the stamp's own, whatever the bundle says beside it.
    assert "2026-01-01" not in verdict.details[name]
    assert f"({stamped.size}.." in verdict.details["unanchored"]


def test_without_roots_nothing_is_claimed_and_the_stamps_are_counted(stamped: Stamped) -> None:
    verdict = stamped.judged(None)
    assert verdict.code == 0
    assert verdict.checks[f"{NAME}.{stamped.size}"] == "SKIP"
    assert "NOT VERIFIED (no --tsa-ca)" in verdict.details[f"{NAME}.{stamped.size}"]
    assert verdict.details[NAME] == "time stamps NOT VERIFIED: 1 (no --tsa-ca)"
    assert "are covered by the log's own signature only" in verdict.details["unanchored"]
    assert "(0.." in verdict.details["unanchored"]


def flipped(answer: bytes, place: int) -> bytes:
    return answer[:place] + bytes([answer[place] ^ 1]) + answer[place + 1 :]


FORGERIES: dict[str, Callable[[Stamped, Authority], dict[str, bytes | str]]] = {
    "a stamp of something else": lambda it, tsa: {"proof": tsa.stamped(b"something else")},
    "another checkpoint": lambda it, tsa: {"note": it.note.replace(f"\n{it.size}\n", "\n7\n")},
    "no checkpoint": lambda it, tsa: {"note": "nothing\n"},
    "an altered signature": lambda it, tsa: {"proof": flipped(it.answer, len(it.answer) - 1)},
    "an altered time": lambda it, tsa: {
        "proof": flipped(it.answer, it.answer.index(b"\x18\x0f20") + 15)
    },
    "a key that is for other things": lambda it, tsa: {
        "proof": tsa.stamped_by_a_client(it.note.encode())
    },
    "no stamp": lambda it, tsa: {"proof": b"nothing"},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_stamp_is_a_change(stamped: Stamped, authority: Authority, forgery: str) -> None:
    changed = {
        name: b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in FORGERIES[forgery](stamped, authority).items()
    }
    verdict = stamped.judged(authority.roots, **changed)
    assert (verdict.code, verdict.failing) == (1, {f"{NAME}.{stamped.size}"}), verdict.text
    assert len(verdict.details[f"{NAME}.{stamped.size}"]) < 200
    assert "(0.." in verdict.details["unanchored"]


def test_a_stamp_under_another_root_is_none(stamped: Stamped, tmp_path: Path) -> None:
    verdict = stamped.judged(Authority(tmp_path / "other").roots)
    assert (verdict.code, verdict.failing) == (1, {f"{NAME}.{stamped.size}"})


def test_what_the_gateway_left_out_or_cannot_be_read_is_no_verdict(
    stamped: Stamped, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stamped.judged(authority.roots, note="").code == 3
    monkeypatch.delitem(sys.modules, "gateway.trace.time_stamps", raising=False)
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    verdict = stamped.judged(authority.roots)
    assert verdict.code == 3
    assert "pip install rfc3161-client" in verdict.details[f"{NAME}.{stamped.size}"]


def test_the_command_takes_a_file_of_roots(stamped: Stamped, authority: Authority) -> None:
    key = stamped.world.state.checkpoints.verifier_key
    words = ["verify", str(stamped.bundle), "--trust-key", key, "--tsa-ca"]
    root = authority.folder / "root.pem"
    done = CliRunner().invoke(command_line("verify"), [*words, str(root)])
    assert (done.exit_code, "by an authority under --tsa-ca" in done.output) == (0, True)
    done = CliRunner().invoke(command_line("verify"), [*words, str(authority.folder / "tsa.key")])
    assert done.exit_code == 2
