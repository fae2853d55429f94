"""`gateway policy replay` and `explain` on a real data directory that a gateway holds open."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import delete, update

from gateway.commands.options import printable
from gateway.ids import new_id
from gateway.policy.bundles import Bundle, build_bundle, keep
from gateway.policy.check import with_folders
from gateway.policy.scratch import decide_all
from gateway.store import tables
from gateway.trace.record import Draft, Field
from tests.builders import World, a_project, a_state
from tests.policy.world import the_opa
from tests.rego.test_router import a_document
from tests.test_cli import _no_settings_of_this_machine as _no_settings
from tests.test_cli import gateway

__all__ = ["_no_settings"]

SECRET = "the-client's-secret"
DENIES_MANY = """\
# METADATA
# title: Row limit
# schemas:
#   - input: schema.input
package policies.all.rows

import rego.v2

# METADATA
# title: Too many rows
# description: Nobody reads so many rows.
findings contains {"action": "DENY", "policy_id": "rows", "reason": "too many rows"} if {
	is_number(input.arguments.limit)
	input.arguments.limit > 100
}
"""
TOO_MANY_LINE = 12


@dataclass
class History:
    """A data directory with decisions, and the folder of policy that they were made by."""

    world: World
    data_dir: Path
    policies: Path
    bundle: Bundle

    def decided(self, limit: object, **recorded: Any) -> str:
        """Record a decision as the gateway would have; `recorded` replaces fields of it."""
        document = a_document() | {"arguments": {"limit": limit, "note": SECRET}}
        question = orjson.dumps({"input": document})
        [answer] = decide_all(self.bundle.archive, [question], the_opa())
        fields: dict[str, Field] = {
            "decision": answer.action,
            "rules": list(answer.policy_ids),
            "policy": self.bundle.digest,
            "tool": "query_records",
        }
        call = new_id("trc")
        draft = Draft(
            "decision", call, a_project().id, fields | recorded, {"input": question}, call_id=call
        )
        state = self.world.state
        state.writer.change_now(lambda c: state.log.append(c, [draft])[0].idx)
        return call

    def change(self, statement: Any) -> None:
        self.world.state.writer.change_now(lambda c: c.execute(statement).rowcount)

    def candidate(self, folder: Path, old: str, new: str) -> Path:
        path = folder / "all" / "rows" / "rows.rego"
        path.parent.mkdir(parents=True)
        path.write_text(DENIES_MANY.replace(old, new))
        return folder

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        done = gateway("policy", *words, "--data-dir", self.data_dir)
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    policies, data_dir = tmp_path / "policies", tmp_path / "data"
    (policies / "all" / "rows").mkdir(parents=True)
    (policies / "all" / "rows" / "rows.rego").write_text(DENIES_MANY)
    monkeypatch.setenv("GATEWAY_POLICY_DIRS", str(policies))
    with a_state(data_dir) as world:
        key = world.state.keyring.bundle
        bundle = build_bundle(with_folders([policies])[0], opa=the_opa(), key=key)
        keep(bundle, data_dir / "bundles")
        yield History(world, data_dir, policies, bundle)


def test_a_decision_is_explained_by_the_rules_that_fired(history: History) -> None:
    call = history.decided(5000)
    code, told, complaint = history.run("explain", call)
    assert code == 0, complaint
    assert f"fired     organisation/1/all/rows/rows.rego:{TOO_MANY_LINE}  Too many rows" in told
    code, told, _ = history.run("explain", call, "--json")
    document = json.loads(told)
    assert document["same"] is True
    assert document["decision"]["policy_ids"] == document["recorded"]["policy_ids"] == ["rows"]
    assert [rule["title"] for rule in document["fired"]] == ["Too many rows"]


def test_what_no_policy_decided_names_no_rule(history: History) -> None:
    code, told, _ = history.run("explain", history.decided(5))
    assert code == 0
    assert "ALLOW by gateway.default" in told
    assert "fired     no rule of a policy" in told


def test_the_bundle_of_that_day_explains_and_not_the_one_that_serves_now(history: History) -> None:
    call = history.decided(5000)
    policies = history.candidate(history.data_dir / "new", "> 100", "> 9999")
    later = build_bundle(with_folders([policies])[0], opa=the_opa(), key=b"k" * 32)
    keep(later, history.data_dir / "bundles")
    assert history.run("explain", call)[0] == 0


@pytest.mark.parametrize("recorded", [{"decision": "ALLOW"}, {"rules": ["another"]}])
def test_an_answer_that_differs_is_said_loudly(history: History, recorded: Any) -> None:
    code, _, complaint = history.run("explain", history.decided(5000, **recorded))
    assert code == 1
    assert "THE ANSWER DIFFERS" in complaint


def test_without_input_or_bundle_nobody_can_tell(history: History) -> None:
    call = history.decided(5000)
    archive = history.data_dir / "bundles" / (history.bundle.digest.replace(":", "-") + ".tar.gz")
    whole = archive.read_bytes()
    archive.write_bytes(whole + b"x")
    code, _, complaint = history.run("explain", call)
    assert (code, "its bytes were changed" in complaint) == (3, True)
    archive.unlink()
    assert history.run("explain", call)[0] == 3
    archive.write_bytes(whole)
    assert history.run("explain", call)[0] == 0
    history.change(update(tables.payloads).values(sealed=b"x" * 64))
    code, _, complaint = history.run("explain", call)
    assert (code, "unreadable" in complaint) == (3, True)
    history.change(delete(tables.payloads))
    code, _, complaint = history.run("explain", call)
    assert (code, "erased" in complaint) == (3, True)
    assert history.run("explain", "trc_of_nobody")[0] == 3
    assert history.run("explain", history.decided(5, policy="none"))[0] == 3


def test_a_key_that_was_dropped_erases_too(history: History) -> None:
    call = history.decided(5)
    history.change(delete(tables.payload_keys))
    code, _, complaint = history.run("explain", call)
    assert (code, "erased" in complaint) == (3, True)


def test_a_candidate_that_changes_nothing_ends_with_0(history: History) -> None:
    history.decided(5)
    code, told, complaint = history.run("replay")
    assert code == 0, complaint
    assert told.startswith("0 of 1 recorded calls would be decided otherwise.")


def test_what_a_candidate_changes_is_grouped_and_no_argument_is_told(
    history: History, tmp_path: Path
) -> None:
    calls = [history.decided(limit) for limit in (5, 50, 60, 5000)]
    stricter = history.candidate(tmp_path / "stricter", "> 100", "> 10")
    code, told, complaint = history.run("replay", "--against", stricter, "--json")
    assert code == 4, complaint
    document = json.loads(told)
    [change] = document["changes"]
    # The newest call comes first.
    assert change == {
        "kind": "newly denied",
        "before": "ALLOW",
        "after": "DENY",
        "policy_ids": ["rows"],
        "tool": "query_records",
        "trace_ids": [calls[2], calls[1]],
    }
    looser = history.candidate(tmp_path / "looser", '"DENY"', '"LOG_ONLY"')
    code, told, _ = history.run("replay", "--against", looser)
    assert code == 8
    assert "newly allowed: DENY -> LOG_ONLY, 1 calls of query_records by rows" in told
    both = history.candidate(
        tmp_path / "both", '"DENY", "policy_id": "rows"', '"REQUIRE_APPROVAL", "policy_id": "ask"'
    )
    path = both / "all" / "rows" / "rows.rego"
    path.write_text(path.read_text().replace("> 100", "> 10"))
    code, markdown, _ = history.run("replay", "--against", both, "--markdown")
    assert code == 12
    assert markdown.count("| newly asking |") == 2
    assert calls[3] in markdown
    for output in (told, markdown, json.dumps(document)):
        assert SECRET not in output
        assert "5000" not in output


def test_an_error_of_one_input_stays_its_own_and_quotes_no_argument(
    history: History, tmp_path: Path
) -> None:
    fine, broken = history.decided(5), history.decided(SECRET)
    candidate = history.candidate(
        tmp_path / "new",
        "is_number(input.arguments.limit)\n\tinput.arguments.limit > 100",
        "to_number(input.arguments.limit) > 100",
    )
    code, told, complaint = history.run("replay", "--against", candidate, "--json")
    assert code == 4, complaint
    document = json.loads(told)
    [error] = document["errors"]
    assert error["trace_id"] == broken
    assert error["message"].startswith("eval_builtin_error at organisation/1/all/rows/rows.rego:")
    [change] = document["changes"]
    assert (change["after"], change["trace_ids"]) == ("ERROR", [broken])
    assert SECRET not in told
    assert fine not in told


def test_a_revision_of_the_folder_is_a_candidate(history: History) -> None:
    calls = [history.decided(limit) for limit in (50, 5000)]

    def git(*words: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        command = ["git", "-C", str(history.policies), *who, *words]
        subprocess.run(command, check=True, capture_output=True)

    policy = history.policies / "all" / "rows" / "rows.rego"
    git("init", "-q")
    policy.write_text(DENIES_MANY.replace("> 100", "> 10"))
    git("add", ".")
    git("commit", "-qm", "Lower the limit")
    git("tag", "lower")
    policy.write_text(DENIES_MANY)
    code, told, complaint = history.run("replay", "--against", "lower", "--json")
    assert code == 4, complaint
    assert [change["trace_ids"] for change in json.loads(told)["changes"]] == [[calls[0]]]
    # Nothing was checked out, and what lies uncommitted is the candidate without a name.
    assert policy.read_text() == DENIES_MANY
    assert history.run("replay")[0] == 0
    code, _, complaint = history.run("replay", "--against", "no-such-revision")
    assert (code, "no-such-revision" in complaint) == (1, True)


def test_only_what_was_asked_for_is_replayed(history: History) -> None:
    for limit in (5, 6, 7):
        history.decided(limit)
    history.change(delete(tables.payloads).where(tables.payloads.c.idx == 1))
    told = json.loads(history.run("replay", "--json")[1])
    assert (told["inputs"], told["not_replayable"]) == (2, 1)
    assert json.loads(history.run("replay", "--json", "--limit", "1")[1])["inputs"] == 1
    assert json.loads(history.run("replay", "--json", "--project", "acme")[1])["inputs"] == 2
    assert history.run("replay", "--project", "nobody")[0] == 3
    assert history.run("replay", "--since", "2999-01-01T00:00:00Z")[0] == 3


def test_a_candidate_that_does_not_build_ends_with_1(history: History, tmp_path: Path) -> None:
    history.decided(5)
    candidate = history.candidate(tmp_path / "new", "> 100", "> input.argments.limit")
    code, told, complaint = history.run("replay", "--against", candidate)
    assert (code, told) == (1, "")
    assert "rows.rego:14" in complaint


def test_without_a_gateway_there_is_nothing_to_replay(tmp_path: Path) -> None:
    for words in (("replay",), ("explain", "trc_1")):
        done = gateway("policy", *words, "--data-dir", tmp_path / "none")
        assert done.exit_code == 3
        assert "holds no gateway" in done.stderr
        assert not (tmp_path / "none").exists()


def test_a_tools_name_cannot_command_a_terminal() -> None:
    assert "\x1b" not in printable("\x1b[2Jquery")
