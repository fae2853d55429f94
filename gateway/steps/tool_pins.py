"""Cleared → Pinned: the tool is still the one that an administrator accepted."""

import unicodedata
from collections.abc import Mapping

from gateway.refusals import Refused
from gateway.registry.directory import Directory
from gateway.values import Call, Cleared, Era, Pinned, Tool

_REASONS = {
    "PENDING": "tool_pending",
    "CHANGED": "tool_changed",
    "SUSPECT": "tool_changed",
    "GONE": "tool_gone",
}


class ToolPins:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def match(self, cleared: Cleared) -> Pinned:
        """Raises `Refused`; arguments that the accepted schema's types forbid are refused too.

        So are headers that do not repeat what they must (`gateway.mcp.param_headers`).
        """
        call = cleared.call
        project = call.caller.project
        tools = self._directory.view(project.id).tools[call.caller.server.id]
        tool = tools.get(call.tool_name)
        if call.caller.control_plane and (tool is None or tool.pin == "PENDING"):
            # Platforms have tools that no scan can see; what was never accepted is pinned to none.
            return Pinned(cleared, None, must_ask=False)
        if tool is None:
            if project.unknown_tools == "deny" or not _may_be_one(call.tool_name, tools):
                raise Refused("unknown_tool")
            return Pinned(cleared, None, must_ask=project.unknown_tools == "ask")
        if tool.pin != "ACCEPTED" and not _only_alerts(tool, project.on_tool_change):
            raise Refused(_REASONS[tool.pin], {"tool_id": tool.id})
        fault = tool.argument_fault(call.arguments)
        if fault is not None:
            raise Refused("invalid_arguments", {"fault": fault})
        if tool.header_fault is not None and _has_headers(call, tool):
            fault = tool.header_fault(call.arguments, call.request.headers)
            if fault is not None:
                raise Refused("header_mismatch", {"fault": fault})
        return Pinned(cleared, tool, must_ask=False)


def _has_headers(call: Call, tool: Tool) -> bool:
    # Of a changed tool's schema only the server knows which headers it names by now.
    return call.source == "mcp" and call.era is Era.MODERN and tool.pin == "ACCEPTED"


def _only_alerts(tool: Tool, on_tool_change: str) -> bool:
    # A definition that changed may be let through with an alert; one never accepted may not.
    return tool.pin == "CHANGED" and on_tool_change == "alert"


def _may_be_one(name: str, tools: Mapping[str, Tool]) -> bool:
    """Whether a tool that no scan knows can have the name.

    PostgreSQL stores no NUL, so no scan will ever know such a name, and no approval can keep it.
    """
    folded = _fold(name)
    return "\0" not in name and all(_fold(known) != folded for known in tools)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).replace("\x00", "").casefold()
