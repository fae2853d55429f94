"""What a gateway holds now, read over its API and named as in a file."""

from collections.abc import Mapping
from typing import Any

from gateway.configuration.api import Api
from gateway.configuration.items import Item, Scalar, item, params
from gateway.frozen import frozen


@frozen
class Live:
    items: tuple[Item, ...]

    def ids(self, noun: str) -> dict[str, str]:
        """Ids of the agents or servers, by name or slug."""
        return {one.name: one.id for one in self.items if one.noun == noun}


@frozen
class _Names:
    """What ids stand for in this project."""

    agents: Mapping[str, str]
    servers: Mapping[str, str]
    tools: Mapping[str, tuple[str, str]]
    """Slug and tool name."""


def read(api: Api) -> Live:
    """Everything that a file can say. Raises `ApiRefused`, `ApiUnknown`."""
    agents, servers = api.all("/agents"), api.all("/mcp/servers")
    # What a template brings comes with its server, and is changed by overrides.
    rules = [row for row in api.all("/mcp/policies") if not row["is_auto_generated"]]
    # A file names no keys, so what counts for one is not the file's.
    budgets = [row for row in api.all("/budgets") if not _of_key(row)]
    names = _Names(
        agents={row["id"]: row["name"] for row in agents},
        servers={row["id"]: row["slug"] for row in servers},
        tools=_tools(api, servers) if _needs_tools(rules, budgets) else {},
    )
    overrides = [
        _override(names, row)
        for server in servers
        if server["connector_type"] != "custom"
        for row in api.all(f"/mcp/servers/{server['id']}/overrides")
    ]
    return Live(
        (
            *(item("agent", r, id=r["id"], revoked=r["state"] == "REVOKED") for r in agents),
            *(item("server", {**row, **params(row["params"])}, id=row["id"]) for row in servers),
            *(_rule(names, row) for row in rules),
            *overrides,
            *(_budget(names, row) for row in budgets),
        )
    )


def _of_key(budget: dict[str, Any]) -> bool:
    return budget["scope"] == "agent" and str(budget["target_id"]).startswith("key_")


def _needs_tools(rules: list[dict[str, Any]], budgets: list[dict[str, Any]]) -> bool:
    return any(row["mcp_tool_id"] for row in rules) or any(r["scope"] == "tool" for r in budgets)


def _tools(api: Api, servers: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {
        tool["id"]: (server["slug"], tool["name"])
        for server in servers
        for tool in api.all(f"/mcp/servers/{server['id']}/tools")
    }


def _rule(names: _Names, row: dict[str, Any]) -> Item:
    server, tool = names.servers.get(row["server_id"]), None
    if row["mcp_tool_id"]:
        server, tool = names.tools[row["mcp_tool_id"]]
    values = {**row, "agent": names.agents.get(row["agent_id"]), "server": server, "tool": tool}
    return item("rule", values, id=row["id"])


def _override(names: _Names, row: dict[str, Any]) -> Item:
    values = {
        **row,
        "policy": row["policy_id"],
        "server": names.servers[row["server_id"]],
        "agent": names.agents.get(row["agent_id"]),
    }
    return item("override", values, id=row["id"])


def _budget(names: _Names, row: dict[str, Any]) -> Item:
    target: dict[str, Scalar] = {"agent": None, "server": None, "tool": None}
    match row["scope"]:
        case "agent":
            target["agent"] = names.agents[row["target_id"]]
        case "server":
            target["server"] = names.servers[row["target_id"]]
        case "tool":
            target["server"], target["tool"] = names.tools[row["target_id"]]
    return item("budget", {**row, **target}, id=row["id"])
