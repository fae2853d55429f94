"""Sets up a running gateway for the demonstration, over its own HTTP API.

Each step looks first whether it is done, so that a start that was cut short is continued by the
next one.
"""

import ssl
from pathlib import Path
from typing import Any

import httpx

from gateway.demo import state as states
from gateway.demo.instructions import ADMIN, APPROVER, SERVER_NAME, Demo
from gateway.demo.state import State

PROJECT_NAME = "Demo"
RULES = (
    ("query_records", "ALLOW", "Reading is what this agent is for."),
    ("create_record", "LOG_ONLY", "New records are kept in the log with their content."),
    ("update_record", "LOG_ONLY", "Changes are kept in the log with their content."),
    ("delete_record", "REQUIRE_APPROVAL", "Deleting cannot be undone."),
    ("send_email", "REQUIRE_APPROVAL", "An e-mail leaves the company."),
    ("bulk_export", "DENY", "Nobody needs all records at once."),
)
_KEYS = (
    # Three people: who approves a call must not be who owns the key that asked.
    ("project", "Demo agent", "demo-developer"),
    ("approver", "Demo approver", APPROVER),
    ("auditor", "Demo auditor", "demo-auditor"),
)


class ApiRefused(Exception):
    """The gateway's API answered what this program did not expect."""


def prepare(base_url: str, data_dir: Path, crm_port: int) -> Demo:
    """Make what is missing: keys, the server, its rules; scan and activate. Raises `ApiRefused`."""
    state = states.read(data_dir)
    with httpx.Client(
        base_url=f"{base_url}/api/v1",
        headers={"Authorization": f"Bearer {state.admin_key}"},
        timeout=30,
        trust_env=False,
        # Not of all authorities' certificates, which are read for a tenth of a second.
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    ) as http:
        api = _Api(http)
        # Keys are the demonstration's people, so they must be allowed to approve.
        api.send("PATCH", "/projects/current", {"key_approvers": True})
        state = _make_keys(api, data_dir, state)
        state = _register(api, data_dir, state, crm_port)
    return Demo(
        base_url=base_url,
        proxy_url=f"{base_url}/api/v1/mcp/proxy/{state.server_id}",
        server_id=state.server_id,
        project_key=state.project_key,
        admin_key=state.admin_key,
        approver_key=state.approver_key,
        auditor_key=state.auditor_key,
        dashboard_url=f"{base_url}/dashboard",
        admin_user=ADMIN,
        admin_password=state.admin_password,
        approver_user=APPROVER,
        approver_password=state.approver_password,
        data_dir=str(data_dir),
    )


class _Api:
    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def send(self, method: str, path: str, body: object = None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
            response.raise_for_status()
            return response.json()
        except httpx.HTTPStatusError as error:
            answer = error.response
            raise ApiRefused(
                f"{method} {path} answered {answer.status_code}: {answer.text}"
            ) from None
        except (httpx.HTTPError, ValueError) as error:
            raise ApiRefused(f"{method} {path} failed: {error!r}") from None


def _make_keys(api: _Api, data_dir: Path, state: State) -> State:
    for role, name, owner in _KEYS:
        field = f"{role}_key"
        if not getattr(state, field):
            made = api.send("POST", "/keys", {"role": role, "name": name, "owner": owner})
            state = states.changed(data_dir, state, **{field: made["key"]})
    return state


def _register(api: _Api, data_dir: Path, state: State, crm_port: int) -> State:
    url = f"http://127.0.0.1:{crm_port}/mcp"
    known = api.send("GET", "/mcp/servers?limit=200")["items"]
    server = next((one for one in known if one["name"] == SERVER_NAME), None)
    if server is None:
        body = {
            "name": SERVER_NAME,
            "server_url": url,
            "description": "The demonstration's CRM.",
            "allow_private_network": True,
        }
        server = api.send("POST", "/mcp/servers", body)
    elif server["server_url"] != url:
        server = api.send("PATCH", f"/mcp/servers/{server['id']}", {"server_url": url})
    # Rules before activation: no call passes undecided, however short the moment.
    _make_rules(api, server["id"])
    if server["status"] != "ACTIVE":
        api.send("POST", f"/mcp/servers/{server['id']}/scan")
        api.send("PATCH", f"/mcp/servers/{server['id']}", {"status": "ACTIVE"})
    return states.changed(data_dir, state, server_id=server["id"], crm_port=crm_port)


def _make_rules(api: _Api, server_id: str) -> None:
    there = {
        (rule["tool_pattern"], rule["action"])
        for rule in api.send("GET", "/mcp/policies?limit=200")["items"]
    }
    for tool, action, reason in RULES:
        if (tool, action) not in there:
            rule = {"server_id": server_id, "tool_pattern": tool, "action": action}
            api.send("POST", "/mcp/policies", {**rule, "reason": reason})
