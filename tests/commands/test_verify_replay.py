"""`gateway verify --replay`: an auditor makes recorded decisions again, with OPA, from a bundle."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.commands.verify_replay import replay_checks
from gateway.ids import new_id
from gateway.policy.bundles import Bundle as PolicyBundle
from gateway.policy.bundles import build_bundle
from gateway.policy.check import with_folders
from gateway.policy.scratch import decide_all
from gateway.trace.bundle import Bundle
from gateway.trace.record import Draft, Field
from gateway.trace.verdicts import Check
from tests.builders import World, a_state
from tests.commands.test_policy_history import DENIES_MANY
from tests.policy.world import the_opa
from tests.rego.test_router import a_document
from tests.trace.evidence_world import PROJECT, change, judge, sign, write


@dataclass
class Audit:
    """A log of decisions by a policy, and the evidence of it."""

    world: World
    policy: PolicyBundle
    folder: Path

    def decided(self, limits: Sequence[object], **recorded: Any) -> None:
        """Record decisions as the gateway would have; `recorded` replaces fields of them."""
        questions = [
            orjson.dumps({"input": a_document() | {"arguments": {"limit": limit}}})
            for limit in limits
        ]
        answers = decide_all(self.policy.archive, questions, the_opa())
        drafts = []
        for question, answer in zip(questions, answers, strict=True):
            fields: dict[str, Field] = {
                "decision": answer.action,
                "rules": list(answer.policy_ids),
                "policy": self.policy.digest,
            }
            call = new_id("trc")
            kept = {"input": question}
            drafts.append(Draft("decision", call, PROJECT, fields | recorded, kept, call_id=call))
        self.world.state.writer.change_now(lambda c: len(self.world.state.log.append(c, drafts)))

    def evidence(self, policies: dict[str, bytes] | None = None) -> Path:
        sign(self.world)
        held = {self.policy.digest: self.policy.archive} if policies is None else policies
        return write(self.world, self.folder, policies=held)

    def replayed(self, policies: dict[str, bytes] | None = None) -> tuple[Check, Check]:
        bundle = Bundle(self.evidence(policies))
        held, replay = replay_checks(bundle, the_opa())
        return held, replay


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyBundle:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "all" / "rows").mkdir(parents=True)
    (folder / "all" / "rows" / "rows.rego").write_text(DENIES_MANY)
    return build_bundle(with_folders([folder])[0], opa=the_opa(), key=b"k" * 32)


@pytest.fixture
def audit(policy: PolicyBundle, tmp_path: Path) -> Iterator[Audit]:
    with a_state(tmp_path / "data") as world:
        yield Audit(world, policy, tmp_path / "bundle")


def test_every_decision_comes_out_again_by_the_thousand(audit: Audit) -> None:
    audit.decided([n % 200 for n in range(2_000)])
    held, replay = audit.replayed()
    assert (held.status, held.detail) == ("PASS", "1 of 1 are in the bundle")
    assert replay == Check("replay", "PASS", "2000 of 2000 decisions are made again as recorded")
    actions = {json.loads(record)["decision"] for record in _bodies(audit.world)}
    assert actions == {"ALLOW", "DENY"}


def _bodies(world: World) -> list[bytes]:
    return [row[0] for row in world.rows("SELECT body FROM trace")]


def test_a_decision_that_does_not_follow_from_its_policy_is_named(audit: Audit) -> None:
    audit.decided([5])
    audit.decided([5000], decision="ALLOW", rules=["gateway.default"])
    audit.decided([7], rules=["another"])
    _, replay = audit.replayed()
    assert replay.status == "FAIL"
    assert "1 of 3 decisions are made again" in replay.detail
    assert "record 1: recorded ALLOW by gateway.default, now DENY by rows" in replay.detail
    assert "record 2: recorded ALLOW by another, now ALLOW by gateway.default" in replay.detail
    opa = the_opa()
    verdict = judge(audit.world, audit.folder, more=[lambda b: replay_checks(b, opa)])
    assert (verdict.code, verdict.failing) == (1, {"replay"})


def test_an_erased_input_cannot_be_told_and_is_no_change(audit: Audit) -> None:
    audit.decided([5, 6, 7])
    change(audit.world, "DELETE FROM payloads WHERE idx = 1")
    _, replay = audit.replayed()
    assert replay.status == "CANNOT TELL"
    assert replay.detail == (
        "2 of 2 decisions are made again as recorded; cannot replay 1 because the input is erased"
    )
    opa = the_opa()
    verdict = judge(audit.world, audit.folder, more=[lambda b: replay_checks(b, opa)])
    assert verdict.code == 3


def test_a_policy_that_is_not_there_cannot_be_told(audit: Audit) -> None:
    audit.decided([5])
    held, replay = audit.replayed(policies={})
    assert (held.status, held.detail) == ("PASS", "0 of 1 are in the bundle")
    assert (replay.status, replay.detail.endswith("the policy is not in the bundle")) == (
        "CANNOT TELL",
        True,
    )


def test_a_policy_that_was_swapped_is_a_change(audit: Audit) -> None:
    audit.decided([5])
    held, replay = audit.replayed(policies={audit.policy.digest: audit.policy.archive + b"\0"})
    assert held.status == "FAIL"
    assert replay.status == "CANNOT TELL"


def test_a_policy_that_reaches_out_is_not_run(audit: Audit) -> None:
    rego = (
        'package gateway\n\ndecision := http.send({"method": "get", "url": "http://127.0.0.1:9"})\n'
    )
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, text in (("/.manifest", '{"roots": [""]}'), ("/gateway.rego", rego)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    archive = file.getvalue()
    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    audit.decided([5], policy=digest)
    _, replay = audit.replayed(policies={digest: archive})
    assert replay.status == "CANNOT TELL"
    assert "OPA does not take the policy" in replay.detail


def test_what_no_policy_decided_is_not_asked_again(audit: Audit) -> None:
    call = new_id("trc")
    stopped = Draft("decision", call, PROJECT, {"decision": "DENY", "reason_code": "stopped"})
    audit.world.state.writer.change_now(lambda c: len(audit.world.state.log.append(c, [stopped])))
    _, replay = audit.replayed()
    assert (replay.status, replay.detail) == (
        "PASS",
        "0 of 0 decisions are made again as recorded",
    )
