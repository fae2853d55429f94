"""A call that waits outlives its gateway: killed, started again, approved, carried out once."""

import signal
import time
from pathlib import Path
from typing import Any

import httpx

from gateway.demo.instructions import Demo
from tests.end_to_end.demonstration import need_opa, running

VERSION = "2026-07-28"
PATIENCE = 60.0


def ask(demo: Demo, method: str, mcp_name: str, **params: Any) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {
            "extensions": {"io.modelcontextprotocol/tasks": {}}
        },
    }
    headers = {
        "Authorization": f"Bearer {demo.project_key}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": method,
        "Mcp-Name": mcp_name,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    answer = httpx.post(
        demo.proxy_url, json=body, headers=headers, trust_env=False, timeout=PATIENCE
    )
    told: dict[str, Any] = answer.json()
    assert "result" in told, told
    return dict(told["result"])


def test_a_task_outlives_a_killed_gateway_and_is_carried_out_once(tmp_path: Path) -> None:
    need_opa()
    with running(tmp_path / "demo") as before:
        call = {"name": "delete_record", "arguments": {"record_id": "OPP-0001"}}
        task = ask(before.demo, "tools/call", "delete_record", **call)
        assert task["resultType"] == "task"
        before.process.send_signal(signal.SIGKILL)
        before.process.wait()
    with running(tmp_path / "demo") as after:
        task_id = task["taskId"]
        assert ask(after.demo, "tasks/get", task_id, taskId=task_id)["status"] == "working"
        headers = {"Authorization": f"Bearer {after.demo.approver_key}"}
        api = f"{after.demo.base_url}/api/v1/approvals"
        with httpx.Client(headers=headers, trust_env=False, timeout=PATIENCE) as approver:
            (waiting,) = approver.get(f"{api}?status=PENDING").json()["items"]
            approver.post(f"{api}/{waiting['id']}/approve", json={}).raise_for_status()
            ends = time.monotonic() + PATIENCE
            while (seen := ask(after.demo, "tasks/get", task_id, taskId=task_id))[
                "status"
            ] == "working":
                assert time.monotonic() < ends
                time.sleep(0.2)
            assert seen["status"] == "completed"
            assert not seen["result"].get("isError")
            assert approver.get(f"{api}/{waiting['id']}").json()["status"] == "CONSUMED"
