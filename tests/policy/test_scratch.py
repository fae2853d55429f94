"""An OPA for policy that is only tried: what it answers, what it refuses, what it leaves behind."""

import os
import subprocess
from pathlib import Path

import orjson
import pytest

from gateway.policy import scratch
from gateway.policy.bundles import build_bundle
from gateway.policy.scratch import decide_all, decide_both
from gateway.policy.sources import BundleFault, the_sources
from tests.end_to_end.demonstration import descendants
from tests.policy.world import KEY, MODES, bundle_of, the_opa
from tests.rego.test_router import a_document


def asked(mode: str) -> bytes:
    return orjson.dumps({"input": {"arguments": {"mode": mode}}})


def test_a_bundle_that_knows_no_groups_is_asked_one_by_one_and_errors_stay_apart(
    tmp_path: Path,
) -> None:
    archive = bundle_of(tmp_path / "policy", MODES).archive
    modes = ["allow", "conflict", "deny", "no object", "builtin error", "unheard of"]
    answers = decide_all(archive, [asked(mode) for mode in modes], the_opa())
    assert [answer.action for answer in answers] == ["ALLOW", None, "DENY", None, None, None]
    assert answers[1].error.startswith("eval_conflict_error at gateway/decision.rego:")
    assert answers[3].error == answers[5].error == "the decision is undefined"
    assert answers[4].error.startswith("eval_builtin_error at gateway/decision.rego:")


def test_a_group_is_answered_in_order_and_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = build_bundle(the_sources(), opa=the_opa(), key=KEY).archive
    monkeypatch.setattr(scratch, "_GROUP", 3)
    documents = [a_document(default=action) for action in ("ALLOW", "DENY") * 4]
    questions = [orjson.dumps({"input": document}) for document in documents]
    # One that cannot be put into a group, and one that is no document.
    questions += [b' {"input": {}}', b'{"input":null}']
    old, new = decide_both(archive, archive, questions, the_opa())
    assert [answer.action for answer in old.answers] == ["ALLOW", "DENY"] * 4 + ["DENY"] * 2
    assert old.answers == new.answers
    monkeypatch.setattr(scratch, "_GROUP", 1)
    assert decide_all(archive, questions, the_opa()) == old.answers
    assert len(old.microseconds) == len(new.microseconds) == len(questions)
    assert all(old.microseconds)


def test_a_policy_that_would_reach_out_is_not_run(tmp_path: Path) -> None:
    policy = tmp_path / "policy.rego"
    policy.write_text('package gateway\n\ndecision := {"action": opa.runtime().env.HOME}\n')
    archive = tmp_path / "bundle.tar.gz"
    command = [str(the_opa()), "build", "--bundle", str(tmp_path), "--output", str(archive)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(BundleFault, match=r"undefined function opa\.runtime"):
        decide_all(archive.read_bytes(), [asked("allow")], the_opa())


def test_nothing_is_left_behind_not_even_by_a_fault(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    archive = bundle_of(tmp_path / "policy", MODES).archive
    assert decide_all(archive, [], the_opa()) == []
    for pair in ((archive, b"no bundle"), (b"no bundle", archive)):
        with pytest.raises(BundleFault):
            decide_both(*pair, [asked("allow")], the_opa())
    assert set(descendants(os.getpid())) <= before
