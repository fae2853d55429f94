"""`gateway policy explain` and `replay` beside a demonstration that runs and decides."""

import json
from pathlib import Path

import httpx

from tests.end_to_end.demonstration import need_opa, running
from tests.test_cli import _no_settings_of_this_machine as _no_settings
from tests.test_cli import gateway

__all__ = ["_no_settings"]

CALLS = {"query_records": "ALLOW", "bulk_export": "DENY", "delete_record": "REQUIRE_APPROVAL"}


def test_what_a_running_gateway_decided_is_decided_so_again(tmp_path: Path) -> None:
    need_opa()
    with running(tmp_path / "demo") as live:
        headers = {
            "Authorization": f"Bearer {live.demo.project_key}",
            "Accept": "application/json, text/event-stream",
        }
        traced = {}
        with httpx.Client(headers=headers, timeout=30, trust_env=False) as agent:
            for tool in CALLS:
                params = {"name": tool, "arguments": {"object_name": "Account"}}
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
                traced[tool] = agent.post(live.demo.proxy_url, json=body).headers["x-trace-id"]
        for tool, trace_id in traced.items():
            told = gateway(
                "policy", "explain", trace_id, "--json", "--data-dir", live.demo.data_dir
            )
            assert told.exit_code == 0, told.stderr
            explained = json.loads(told.stdout)
            assert (explained["recorded"]["tool"], explained["same"]) == (tool, True)
            assert explained["decision"]["action"] == CALLS[tool]
        told = gateway("policy", "replay", "--json", "--data-dir", live.demo.data_dir)
        assert told.exit_code == 0, told.stderr
        assert json.loads(told.stdout)["inputs"] == len(CALLS)
