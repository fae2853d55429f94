"""What ids are called, from the view that decisions are made with: no query."""

from collections.abc import Mapping
from typing import Any

from gateway.dashboard.page import Page
from gateway.values import Agent, Server

MOST_DRAWN = 200
"""Things that a page lists to choose from; of more, one is named."""


def names_of(page: Page) -> Mapping[str, str]:
    """Agents, servers and tools of the person's project, by id."""
    view = page.context.api.registry.directory.view(page.person.project_id)
    found: dict[str, str] = {agent.id: agent.name for agent in view.agents.values()}
    found |= {server.id: server.name for server in view.servers.values()}
    for tools in view.tools.values():
        found |= {tool.id: tool.name for tool in tools.values()}
    return found


def policies_of(page: Page) -> Mapping[str, str]:
    """What decisions name: rules in their makers' words, templates' policies by title."""
    registry = page.context.api.registry
    view = registry.directory.view(page.person.project_id)
    found = {f"rule:{rule.id}": f"rule: {rule.reason or rule.tool_pattern}" for rule in view.rules}
    bound = {server.template for server in view.servers.values()}
    for name, template in registry.templates.templates().items():
        if name in bound:
            found |= {policy.id: policy.title for policy in template.policies}
    return found


def choices_of(page: Page) -> dict[str, list[tuple[str, str]]]:
    """What fields that hold an id may hold."""
    view = page.context.api.registry.directory.view(page.person.project_id)
    agents = sorted((a.name, a.id) for a in view.agents.values())
    servers = sorted((s.name, s.id) for s in view.servers.values())
    tools = sorted(
        (f"{tool.name} ({view.servers[server_id].name})", tool.id)
        for server_id, of_server in view.tools.items()
        if server_id in view.servers
        for tool in of_server.values()
    )
    return {
        "agent_id": [(id_, name) for name, id_ in agents],
        "server_id": [(id_, name) for name, id_ in servers],
        "mcp_tool_id": [(id_, name) for name, id_ in tools],
    }


def few_choices_of(page: Page) -> dict[str, list[tuple[str, str]] | None]:
    """Agents and servers to choose from; None where a list of all would be too long to draw."""
    view = page.context.api.registry.directory.view(page.person.project_id)
    return {"agent_id": _few(view.agents), "server_id": _few(view.servers)}


def _few(named: Mapping[Any, Agent] | Mapping[Any, Server]) -> list[tuple[str, str]] | None:
    if len(named) > MOST_DRAWN:
        return None
    return sorted(((str(one.id), one.name) for one in named.values()), key=lambda pair: pair[1])
