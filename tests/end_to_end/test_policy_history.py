"""`gateway policy explain` and `replay` beside a demonstration that runs and decides."""

import json
from pathlib import Path

import httpx

from tests.end_to_end.demonstration import Running, need_opa, running
from tests.test_cli import _no_settings_of_this_machine as _no_settings
from tests.test_cli import gateway

__all__ = ["_no_settings"]

CANDIDATE = """# METADATA
# title: Nothing
# description: Nobody reads.
# schemas:
#   - input: schema.input
package policies.all.nothing

import rego.v2

# METADATA
# title: Nothing
# description: Nobody reads.
findings contains {"action": "DENY", "policy_id": "nothing", "reason": "nobody reads"} if {
	input.tool.name == "query_records"
}
"""
WRONG = {
    CANDIDATE.replace("input.tool.name", "input.tool.nmae"): "undefined ref: input.tool.nmae",
    CANDIDATE + '\nx := http.send({"method": "get", "url": "http://x"})\n': "undefined function",
    "package policies.all.nothing\n\nx :=\n": "rego_parse_error",
}
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
        _a_candidate_is_tried(live)


def _a_candidate_is_tried(live: Running) -> None:
    demo = live.demo
    headers = {"Authorization": f"Bearer {demo.auditor_key}"}
    with httpx.Client(base_url=f"{demo.base_url}/api/v1", headers=headers, timeout=120) as auditor:
        before = auditor.get("/policy/status").json()["active"]["digest"]
        body = {"files": {"all/nothing/nothing.rego": CANDIDATE}}
        answer = auditor.post("/policy/replay", json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["inputs"], told["stricter"], told["looser"]) == (len(CALLS), True, False)
        [change] = told["changes"]
        assert (change["before"], change["after"]) == ("ALLOW", "DENY")
        assert (change["tool"], change["policy_ids"]) == ("query_records", ["nothing"])
        for text, why in WRONG.items():
            body = {"files": {"all/nothing/nothing.rego": text}}
            answer = auditor.post("/policy/replay", json=body)
            assert answer.status_code == 400
            [detail] = answer.json()["error"]["details"]
            assert detail["field"] == "files.all/nothing/nothing.rego"
            assert why in detail["message"]
        for name in ("../x.rego", "/x.rego", "all/x.sh"):
            assert auditor.post("/policy/replay", json={"files": {name: ""}}).status_code == 400
        assert auditor.get("/policy/status").json()["active"]["digest"] == before
