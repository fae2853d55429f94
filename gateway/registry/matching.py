"""Which rules match a call: found by what they name, so that few are looked at of many."""

import re
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache

from gateway.frozen import frozen
from gateway.values import Agent, AgentId, Risk, Rule, Server, ServerId, Tool, ToolId

_Kind = tuple[AgentId | None, ServerId, str, tuple[ToolId, Risk] | None]
"""Agent, server, tool name, and the tool where it is known: the same rules match."""
_REMEMBERED_KINDS = 10_000
_WILD = re.compile(r"[*?[]")
_RISK_ORDER = {risk: n for n, risk in enumerate(Risk)}
_Named = tuple[str, str]
"""A column of a rule and what it holds; two of no text: a rule that names nothing exactly."""
_NOTHING: _Named = ("", "")


@frozen
class _Entry:
    place: int
    rule: Rule
    fits_name: Callable[[str], object] | None
    """None: every name, or the rule was found by the name."""


class Matching:
    """The rules of a project, which never change here; that they expire is not looked at."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._found_by: dict[_Named, list[_Entry]] = {}
        for place, rule in enumerate(rules):
            named = _named(rule)
            pattern = rule.tool_pattern
            by_name = named[0] == "tool_pattern"
            fits = None if pattern is None or by_name else _fitting(pattern)
            self._found_by.setdefault(named, []).append(_Entry(place, rule, fits))
        self._remembered: dict[_Kind, tuple[Rule, ...]] = {}

    def of(
        self, agent: Agent | None, server: Server, tool_name: str, tool: Tool | None
    ) -> tuple[Rule, ...]:
        """In the order of the rules."""
        # What matched once matches again. The tool may come from the view before: with another
        # risk it is another kind.
        known = (tool.id, tool.risk) if tool else None
        kind = (agent.id if agent else None, server.id, tool_name, known)
        matching = self._remembered.get(kind)
        if matching is None:
            if len(self._remembered) >= _REMEMBERED_KINDS:
                self._remembered.clear()
            matching = self._remembered[kind] = self._find(agent, server, tool_name, tool)
        return matching

    def _find(
        self, agent: Agent | None, server: Server, tool_name: str, tool: Tool | None
    ) -> tuple[Rule, ...]:
        names: list[_Named] = [_NOTHING, ("tool_pattern", tool_name), ("server_id", server.id)]
        if agent is not None:
            names.append(("agent_id", agent.id))
        if tool is not None:
            names.append(("tool_id", tool.id))
        entries = [entry for name in names for entry in self._found_by.get(name, ())]
        matching = [one for one in entries if _matches(one, agent, server, tool_name, tool)]
        return tuple(one.rule for one in sorted(matching, key=lambda one: one.place))


# `fnmatch` remembers 256 patterns, and with more of them compiles each one each time.
@lru_cache(maxsize=_REMEMBERED_KINDS)
def _fitting(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).match


def _named(rule: Rule) -> _Named:
    """What the rule is found by: of what it names exactly, the thing that fewest rules share."""
    if rule.tool_id is not None:
        return "tool_id", rule.tool_id
    if rule.tool_pattern is not None and not _WILD.search(rule.tool_pattern):
        return "tool_pattern", rule.tool_pattern
    if rule.agent_id is not None:
        return "agent_id", rule.agent_id
    if rule.server_id is not None:
        return "server_id", rule.server_id
    return _NOTHING


def _matches(
    entry: _Entry, agent: Agent | None, server: Server, tool_name: str, tool: Tool | None
) -> bool:
    rule = entry.rule
    return (
        (rule.agent_id is None or (agent is not None and rule.agent_id == agent.id))
        and (rule.server_id is None or rule.server_id == server.id)
        and (rule.tool_id is None or (tool is not None and rule.tool_id == tool.id))
        and (entry.fits_name is None or entry.fits_name(tool_name) is not None)
        and (rule.min_risk is None or _at_least(tool, rule.min_risk))
    )


def _at_least(tool: Tool | None, risk: Risk) -> bool:
    # An unknown tool may be anything, so a rule for risky tools covers it.
    return tool is None or _RISK_ORDER[tool.risk] >= _RISK_ORDER[risk]
