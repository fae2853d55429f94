"""What an administrator pastes into a ServiceNow instance, run against a gateway that is served."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import needs
from tests.end_to_end.demonstration import need_opa, running

PAGE = Path(__file__).parents[2] / "docs" / "connectors" / "servicenow.md"
SCRIPTS = Path(__file__).parent / "servicenow.cjs"
SECONDS = 300


@dataclass
class Instance:
    """Where the scripts run, and the gateway they ask."""

    admin: httpx.Client
    approver_key: str
    url: str
    key: str
    extension: str

    def run(self, *calls: Any, url: str | None = None) -> tuple[list[Any], list[str]]:
        """What the scripts gave, and what they wrote to the instance's log."""
        told = {"url": url or self.url, "key": self.key, "extension": self.extension}
        done = subprocess.run(
            [needs("node", "Node.js 20 or later"), str(SCRIPTS), str(PAGE)],
            input=json.dumps({**told, "calls": calls}),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return found["answers"], found["logged"]

    def records(self, tool: str) -> list[list[dict[str, Any]]]:
        """Of each call of a tool what was recorded, in order."""
        listed = self.admin.get("/traces", params={"tool": tool}).json()["items"]
        calls = [self.admin.get(f"/traces/{one}") for one in {row["trace_id"] for row in listed}]
        return [[one["record"] for one in call.json()["records"]] for call in calls]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    need_opa()
    with running(tmp_path_factory.mktemp("demo") / "data") as live:
        headers = {"Authorization": f"Bearer {live.demo.admin_key}"}
        base = f"{live.demo.base_url}/api/v1"
        with httpx.Client(base_url=base, headers=headers, timeout=60) as admin:
            server = admin.post("/mcp/servers/from-template", json={"template": "servicenow"})
            assert server.status_code == 201, server.text
            new = {
                "name": "Now Assist",
                "type": "servicenow",
                "server_id": server.json()["id"],
                "scopes": ["decide", "webhook:ingest"],
            }
            made = admin.post("/extensions", json=new)
            assert made.status_code == 201, made.text
            row = made.json()
            yield Instance(admin, live.demo.approver_key, live.demo.base_url, row["key"], row["id"])


def test_a_script_tool_does_its_work_only_when_the_gateway_lets_it(instance: Instance) -> None:
    change = {"change_id": "CHG0030001"}
    (allowed, denied, waiting), logged = instance.run(
        ["scriptTool", "update_incident", {"incident_id": "INC0010001"}],
        ["scriptTool", "delete_incident", {"incident_id": "INC0010001"}],
        ["scriptTool", "approve_change", change],
    )
    assert allowed == {"returned": {"done": True}, "worked": True}
    assert (denied["worked"], waiting["worked"]) == (False, False)
    assert denied["returned"]["error"].startswith("Not allowed: ")
    assert logged == []

    (pending,) = instance.admin.get("/approvals", params={"status": "PENDING"}).json()["items"]
    decided = instance.admin.post(
        f"/approvals/{pending['id']}/approve",
        json={"reason": "known"},
        headers={"Authorization": f"Bearer {instance.approver_key}"},
    )
    assert decided.is_success, decided.text
    again, _ = instance.run(
        ["scriptTool", "approve_change", change], ["scriptTool", "approve_change", change]
    )
    assert [one["worked"] for one in again] == [True, False]


def test_a_subflow_is_told_whether_to_go_on(instance: Instance) -> None:
    (allowed, denied), _ = instance.run(
        ["subflow", "list_incidents", {}], ["subflow", "delete_incident", {"id": "INC0010002"}]
    )
    assert (allowed["allowed"], denied["allowed"]) == (True, False)
    assert denied["reason"]


def test_whatever_goes_wrong_on_the_way_is_not_allowed(instance: Instance) -> None:
    calls = (["scriptTool", "update_incident", {}], ["subflow", "list_incidents", {}])
    (tool, subflow), logged = instance.run(*calls, url="http://127.0.0.1:1")
    assert (tool["worked"], subflow["allowed"]) == (False, False)
    assert len(logged) == 2
    stranger = replace(instance, key="ext_of_nobody")
    (tool, subflow), _ = stranger.run(*calls)
    assert (tool["worked"], subflow["allowed"]) == (False, False)


def test_what_has_run_is_recorded_with_its_tool_and_joins_its_decision(instance: Instance) -> None:
    row = {
        "sys_id": "8d1c0a7d1b2c0210a1f1c8ecf54bcb11",
        "sys_mod_count": "1",
        "sys_updated_on": "2026-03-19 10:00:02",
        "tool": "3c72dab2668c4ba5a6080a5cd5fb2b91",
        "execution_plan_id": "78f347b72f198310f824ac1bcfa4e3bd",
        "execution_status": "success",
        "request": '{"article_id": "KB0000001"}',
    }
    tool = {"name": "Publish", "tool": {"name": "publish_article"}, "agent": {"name": "Writer"}}
    answers, logged = instance.run(["businessRule", row, tool])
    assert (answers, logged) == ([True], [])
    (recorded,) = instance.records("publish_article")
    assert recorded[0]["enforceable"] is False
    assert recorded[0]["external_agent"] == "Writer"
    assert [one["kind"] for one in recorded] == ["decision", "outcome"]

    instance.run(["subflow", "update_article", {"article_id": "KB0000001"}])
    ((asked, *_),) = instance.records("update_article")
    answers, _ = instance.run(["report", asked["call"], False, "completed"])
    assert answers == [True]
    ((*_, outcome),) = instance.records("update_article")
    assert (outcome["kind"], outcome["said"]) == ("outcome", "completed")
