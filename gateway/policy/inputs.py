"""Whole inputs that nobody sent: for what is asked of a bundle before it serves, and as samples."""

from typing import Any


def a_call(
    *,
    project: str = "p",
    server: str = "s",
    agent: str = "a",
    tool: str = "t",
    template: str | None = None,
) -> dict[str, Any]:
    """An input as the schema has it (``rego/schemas/input.json``), with empty arguments."""
    return {
        **what_every_input_has(project, server, agent, template),
        "tool": {
            "name": tool,
            "risk": "LOW",
            "risk_computed": "LOW",
            "pin": "ACCEPTED",
            "annotations": {},
            "definition_sha256": None,
        },
        "rules": [],
        "arguments": {},
        "call": {
            "source": "mcp",
            "method": "tools/call",
            "phase": "call",
            "era": "modern",
            "session": None,
            "task": None,
            "meta": {},
            "input_responses": None,
            "is_retry": False,
        },
    }


def what_every_input_has(
    project: str, server: str, agent: str, template: str | None
) -> dict[str, Any]:
    """What inputs about calls and about other methods have in common."""
    return {
        "version": 1,
        "project": {"id": "prj_0", "slug": project, "default_action": "DENY"},
        "agent": {"id": "agt_0", "name": agent, "asserted": False},
        "server": {
            "id": "srv_0",
            "slug": server,
            "origin": "",
            "template": template,
            "params": {},
            "overrides": [],
        },
        "context": {"time": "2026-01-01T00:00:00Z", "client_ip": ""},
    }
