"""The policy step: puts what is known of a call into one document, and asks OPA about it."""

from collections.abc import Callable, Mapping

import orjson

from gateway.policy.documents import caller_parts, hashed, rule_part, tool_part
from gateway.policy.engine import LARGEST_QUESTION, Engine, EngineFault
from gateway.policy.risk import as_sent
from gateway.policy.verdicts import verdict_of
from gateway.refusals import Refused
from gateway.registry.directory import ProjectView
from gateway.values import (
    Call,
    Decision,
    Enforcement,
    Json,
    Pinned,
    ProjectId,
    Risk,
    Steady,
)

_REMEMBERED = 2048


class Policy:
    """Asks `data.gateway.decision` once. No answer, or half a one, is a refusal."""

    def __init__(
        self,
        engine: Engine,
        *,
        view: Callable[[ProjectId], ProjectView],
        now: Callable[[], str],
    ) -> None:
        """`now` gives RFC 3339 in UTC with microseconds: the only time that policies see."""
        self._engine = engine
        self._view = view
        self._now = now
        self._commons: dict[tuple[object, ...], tuple[tuple[object, ...], bytes]] = {}

    async def decide(self, pinned: Steady) -> Decision:
        """Return what the policy says. Raises `Refused`."""
        caller = pinned.call.caller
        question, common = self.question(pinned)
        if len(question) > LARGEST_QUESTION:
            raise Refused(
                "too_large_to_decide",
                detail=f"the policy input has {len(question)} bytes of {LARGEST_QUESTION}",
            )
        try:
            answer = await self._engine.decide(
                question, key=caller.key.id, project=caller.project.id, common=common
            )
            verdict = verdict_of(answer)
        except EngineFault as error:
            raise Refused("policy_unavailable", detail=str(error)) from error
        enforcement = caller.server.enforcement or caller.project.enforcement
        return Decision(
            pinned=pinned,
            verdict=verdict,
            enforced=enforcement is not Enforcement.MONITOR,
            risk=_presumed(pinned) if pinned.tool is None else pinned.tool.risk,
            policy_input=question,
        )

    def question(self, pinned: Pinned) -> tuple[bytes, int]:
        """Return the document of ``rego/schemas/input.json`` as ``{"input": …}``, in JSON, and how
        many of its first bytes are alike for other calls of this caller to this tool.
        """
        call, now = pinned.call, self._now()
        common = self._common(pinned, now)
        own = {
            "arguments": call.arguments,
            "call": _call(call),
            "context": {"time": now, "client_ip": call.request.client_ip},
        }
        rest = orjson.dumps(own, default=as_sent)
        return b"%b,%b}" % (common, rest[1:]), len(common)

    def _common(self, pinned: Pinned, now: str) -> bytes:
        """What does not change from call to call: ``{"input":{…``, without an end."""
        call = pinned.call
        caller, tool = call.caller, pinned.tool
        view = self._view(caller.project.id)
        overrides = view.overrides.get(caller.server.id, ())
        rules = view.matching_rules(caller.agent, caller.server, call.tool_name, tool, now)
        presumed = _presumed(pinned)
        # Values are never altered, so the same ones say the same: to look at what they hold would
        # cost as much as to write it. Kept with its bytes, none of them gives its id to another.
        of = (caller.project, caller.agent, caller.server, overrides, tool, *rules)
        key = (*map(id, of), call.tool_name, caller.asserted, pinned.must_ask, presumed)
        found = self._commons.get(key)
        if found is not None:
            return found[1]
        document = {
            **caller_parts(caller, overrides),
            "tool": tool_part(call.tool_name, tool, must_ask=pinned.must_ask, presumed=presumed),
            "rules": [rule_part(rule) for rule in rules],
        }
        common = b'{"input":%b' % orjson.dumps(document, default=as_sent)[:-1]
        if len(self._commons) >= _REMEMBERED:
            self._commons.clear()
        self._commons[key] = (of, common)
        return common


def _presumed(pinned: Pinned) -> Risk:
    """The risk of a tool that no scan knows: the worst but one, unless a platform described it."""
    event = pinned.call.event
    return Risk.HIGH if event is None else Risk(event.risk)


def _call(call: Call) -> Mapping[str, Json]:
    return {
        "source": call.source,
        "method": "tools/call",
        "phase": "call",
        "era": call.era,
        "session": None if call.session is None else hashed(call.session),
        "task": _task(call.task),
        "meta": call.meta,
        "input_responses": call.input_responses,
        "is_retry": call.is_retry,
    }


def _task(task: Json | None) -> Json | None:
    if isinstance(task, str):
        return hashed(task)
    if isinstance(task, Mapping):
        named = task.get("taskId")
        return {**task, "taskId": hashed(named)} if isinstance(named, str) else task
    return task
