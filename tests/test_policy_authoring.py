"""The tutorial's commands and the workflow's steps do what the pages say, on this machine."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from gateway.ids import new_id
from gateway.policy.bundles import build_bundle, keep
from gateway.policy.sources import the_sources
from gateway.trace.record import Draft
from tests.builders import a_project, a_state
from tests.end_to_end.demonstration import environment
from tests.policy.world import the_opa
from tests.rego.test_router import a_document

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "policy-authoring.md"
WORKFLOW = ROOT / "docs" / "ci" / "policy.yml"
SECONDS = 120


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder to work in, with `gateway` and `opa` on PATH and a data directory of last week."""

    folder: Path
    env: dict[str, str]

    def run(self, script: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    programs, folder = tmp_path / "bin", tmp_path / "repository"
    programs.mkdir()
    folder.mkdir()
    python = shlex.quote(sys.executable)
    for name, does in {
        "gateway": f'PYTHONPATH={shlex.quote(str(ROOT))} exec {python} -m gateway "$@"',
        # What a registry would give is here already.
        "pip": 'test "$*" = "install policy-gateway"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(the_opa().parent), os.environ["PATH"]])
    with a_state(tmp_path / "data") as world:
        archive = build_bundle(the_sources(), opa=the_opa(), key=world.state.keyring.bundle)
        keep(archive, tmp_path / "data" / "bundles")
        document = a_document(tool="bulk_export") | {"arguments": {"limit": 5000}}
        call = new_id("trc")
        draft = Draft(
            kind="decision",
            id=call,
            project_id=a_project().id,
            fields={
                "decision": "ALLOW",
                "rules": ["gateway.default"],
                "policy": archive.digest,
                "tool": "bulk_export",
            },
            payloads={"input": orjson.dumps({"input": document})},
            call_id=call,
        )
        state = world.state
        state.writer.change_now(lambda c: state.log.append(c, [draft])[0].idx)
        settings = {"GATEWAY_DATA_DIR": str(tmp_path / "data"), "TRACE_ID": call, "PATH": path}
        yield Desk(folder, environment() | settings)


def test_the_tutorial_can_be_typed_from_its_first_line_to_its_last(desk: Desk) -> None:
    steps = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(), re.M | re.S)
    assert len(steps) == 6
    printed = []
    for step in steps:
        done = desk.run(step)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
        printed.append(done.stdout)
    begun, flawed, sound, tested, replayed, explained = printed
    assert "4 passed, 0 failed" in begun
    assert "[unchecked-number]" in flawed
    assert flawed.endswith("refused, as it should be\n")
    assert sound == ""
    assert "100 % covered\n4 passed, 0 failed\n" in tested
    assert "newly asking: ALLOW -> REQUIRE_APPROVAL, 1 calls of bulk_export" in replayed
    assert "now       ALLOW by gateway.default" in explained


def test_every_rule_of_the_check_is_in_the_tutorial_and_no_other() -> None:
    table = TUTORIAL.read_text().partition("| rule | what it means |")[2]
    told = {name for row in table.splitlines() for name in re.findall(r"`([a-z-]+)`", row[:80])}
    told = {name for name in told if "-" in name or name in ("build", "format")}
    code = "".join(
        (ROOT / "gateway" / "policy" / f"{name}.py").read_text() for name in ("flaws", "check")
    )
    given = set(re.findall(r'"((?:[a-z]+-)+[a-z]+)"', code)) - {"rego-parse-error"}
    given |= {f"finding-no-{name}" for name in ("action", "policy-id", "reason")}
    assert told == given | {"build", "format"}


def workflow() -> dict[Any, Any]:
    parsed = yaml.safe_load(WORKFLOW.read_text())
    assert isinstance(parsed, dict)
    return parsed


def test_the_workflow_is_one() -> None:
    document = workflow()
    # YAML 1.1 reads the key `on` as true.
    assert set(document) == {"name", True, "permissions", "jobs"}
    assert set(document[True]) == {"pull_request", "push"}
    assert document["permissions"] == {"contents": "read"}
    for job in document["jobs"].values():
        assert set(job) <= {"if", "needs", "runs-on", "env", "steps"}
        assert set(job.get("needs", "check").split()) <= set(document["jobs"])
        for step in job["steps"]:
            assert set(step) <= {"name", "uses", "with", "run"}
            assert ("uses" in step) is not ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


def test_the_workflow_needs_only_opa_and_the_gateway() -> None:
    programs = set()
    for job in workflow()["jobs"].values():
        for step in job["steps"]:
            lines = [line.strip() for line in step.get("run", "").splitlines()]
            programs |= {line.split()[0] for line in lines if not re.match(r"\w+=|case ", line)}
    assert programs == {"pip", "dirname", "opa", "gateway"}


def test_the_workflows_steps_pass_on_a_sound_policy(desk: Desk) -> None:
    assert desk.run("gateway policy new p --route tool/bulk_export --dir policies").returncode == 0
    summary = run_steps(desk)
    assert "### Policy replay" in summary
    assert "| newly denied | ALLOW → DENY | `bulk_export` | `p` | 1 |" in summary


def run_steps(desk: Desk) -> str:
    """Run every step of every job as a runner would; returns the summary."""
    files = {name: desk.folder / name for name in ("GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    desk.env.update({name: str(path) for name, path in files.items()})
    for job in workflow()["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                done = desk.run(step["run"])
                assert done.returncode == 0, f"{step['run']}\n{done.stdout}{done.stderr}"
    assert Path(files["GITHUB_PATH"].read_text().strip(), "opa").is_file()
    return files["GITHUB_STEP_SUMMARY"].read_text()


def test_the_workflow_fails_on_a_flawed_policy(desk: Desk) -> None:
    assert desk.run("gateway policy new p --dir policies").returncode == 0
    policy = desk.folder / "policies" / "all" / "p" / "p.rego"
    policy.write_text(policy.read_text().replace('"reason"', '"raeson"'))
    checks = [
        step["run"]
        for step in workflow()["jobs"]["check"]["steps"]
        if "policy check" in step.get("run", "")
    ]
    assert [desk.run(check).returncode for check in checks] == [1]
