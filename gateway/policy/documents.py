"""The parts of the documents that OPA is asked about, alike in every question."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.values import Caller, Json, Override, Risk, Rule, Server, Tool


def caller_parts(caller: Caller, overrides: Sequence[Override]) -> dict[str, Json]:
    """Project, agent and server, with the overrides that are in force there."""
    project, agent = caller.project, caller.agent
    return {
        "version": 1,
        "project": {
            "id": project.id,
            "slug": project.slug,
            "default_action": project.default_action,
        },
        "agent": agent and {"id": agent.id, "name": agent.name, "asserted": caller.asserted},
        "server": server_part(caller.server, overrides),
    }


def server_part(server: Server, overrides: Sequence[Override]) -> Mapping[str, Json]:
    return {
        "id": server.id,
        "slug": server.slug,
        "origin": _origin(server.url),
        "template": server.template,
        "params": server.params,
        "overrides": [
            {
                "policy_id": override.policy_id,
                "action": override.action,
                "agent_id": override.agent_id,
                "expires_at": override.expires_at,
                "reason": override.reason,
            }
            for override in overrides
        ],
    }


@lru_cache(maxsize=1024)
def _origin(url: str) -> str:
    """Scheme, host and port as they stand in the URL; empty for a server without one (stdio)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else ""


def tool_part(
    name: str, tool: Tool | None, *, must_ask: bool, presumed: Risk = Risk.HIGH
) -> Mapping[str, Json]:
    """``presumed`` is the risk of a tool that no scan knows."""
    if tool is None:
        return {
            "name": name,
            "risk": presumed,
            "risk_computed": presumed,
            "pin": "UNKNOWN" if must_ask else "UNPINNED",
            "annotations": {},
            "definition_sha256": None,
        }
    return {
        "name": tool.name,
        "risk": tool.risk,
        "risk_computed": tool.risk_computed,
        "pin": tool.pin,
        "annotations": tool.annotations,
        "definition_sha256": tool.definition_sha256,
    }


def rule_part(rule: Rule) -> Mapping[str, Json]:
    return {
        "id": rule.id,
        "action": rule.action,
        "agent_id": rule.agent_id,
        "server_id": rule.server_id,
        "tool_id": rule.tool_id,
        "tool_pattern": rule.tool_pattern,
        "min_risk": rule.min_risk,
        "reason": rule.reason,
    }


def hashed(secret: str) -> str:
    """Who knows a session's or task's id can act in it, and inputs are kept for weeks."""
    return hashlib.sha256(secret.encode()).hexdigest()
