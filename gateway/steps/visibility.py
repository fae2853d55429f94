"""Which tools of a list the caller may surely not call, asked for a page at once.

Leaving them out spares the agent a refusal; it protects nothing. What binds is asked of each call.
"""

from collections.abc import Callable, Iterable, Mapping

import orjson

from gateway.policy.documents import caller_parts, rule_part, tool_part
from gateway.policy.engine import LARGEST_QUESTION, Engine, EngineFault
from gateway.policy.features import Features
from gateway.policy.risk import as_sent
from gateway.refusals import Refused
from gateway.registry.directory import ProjectView
from gateway.values import Action, Caller, Enforcement, Era, Json, ProjectId, Request

_HIDDEN = b"gateway/listing/hidden"
_SECONDS = 2.0
"""A page may hold a thousand tools, each of which is a decision of its own."""


class Visibility:
    """Asks `data.gateway.listing.hidden`, unless neither a rule nor the bundle can hide a tool."""

    def __init__(
        self,
        engine: Engine,
        *,
        features: Callable[[], Features],
        view: Callable[[ProjectId], ProjectView],
        now: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._features = features
        self._view = view
        self._now = now

    async def hidden(
        self, caller: Caller, request: Request, era: Era, names: Iterable[str]
    ) -> frozenset[str]:
        """The names that a list for this caller leaves out. Raises `Refused`."""
        enforcement = caller.server.enforcement or caller.project.enforcement
        if not caller.project.hide_denied_tools or enforcement is Enforcement.MONITOR:
            return frozenset()
        now = self._now()
        tools = [self._tool(caller, name, now) for name in names]
        denies = any(rule["action"] is Action.DENY for tool in tools for rule in tool["rules"])
        if not tools or not (denies or self._features().hides):
            return frozenset()
        view = self._view(caller.project.id)
        shared = {
            **caller_parts(caller, view.overrides.get(caller.server.id, ())),
            "call": {"source": "mcp", "method": "tools/list", "phase": "list", "era": era},
            "context": {"time": now, "client_ip": request.client_ip},
        }
        return frozenset(await self._ask(caller, shared, tools))

    def _tool(self, caller: Caller, name: str, now: str) -> Mapping[str, Json]:
        view = self._view(caller.project.id)
        tool = view.tools.get(caller.server.id, {}).get(name)
        rules = view.matching_rules(caller.agent, caller.server, name, tool, now)
        must_ask = caller.project.unknown_tools == "ask"
        return {
            "tool": tool_part(name, tool, must_ask=must_ask),
            "rules": [rule_part(rule) for rule in rules],
        }

    async def _ask(
        self, caller: Caller, shared: Mapping[str, Json], tools: list[Mapping[str, Json]]
    ) -> list[str]:
        document = {"input": {"shared": shared, "tools": tools}}
        question = orjson.dumps(document, default=as_sent)
        if len(question) > LARGEST_QUESTION:
            if len(tools) == 1:
                raise Refused("too_large_to_decide")
            half = len(tools) // 2
            first = await self._ask(caller, shared, tools[:half])
            return first + await self._ask(caller, shared, tools[half:])
        try:
            answer = await self._engine.ask(_HIDDEN, question, key=caller.key.id, seconds=_SECONDS)
        except EngineFault as fault:
            raise Refused("policy_unavailable", detail=str(fault)) from fault
        names = answer.result
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Refused("policy_unavailable", detail="the hidden tools are no list of names")
        return names
