"""What Verify would answer, asked without acting: nothing is admitted, charged or spent.

The policy is asked for any tool name, whether a scan knows it or not, and whatever stands in the
way besides the policy is named beside it.
"""

from collections.abc import Mapping

from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.records.refused_calls import RefusedCalls
from gateway.refusals import Refused
from gateway.registry.directory import Directory
from gateway.registry.faults import Unready
from gateway.steps.budget import BudgetLook
from gateway.steps.emergency_stop import EmergencyStop
from gateway.steps.enforcement import enforce
from gateway.steps.policy import Policy
from gateway.steps.tool_pins import ToolPins
from gateway.values import (
    Action,
    AgentId,
    Call,
    Caller,
    CallId,
    Cleared,
    Decision,
    Era,
    Json,
    Key,
    Pinned,
    Request,
    ServerId,
    Steady,
)


@frozen
class Question:
    """What `/mcp/decide` asks: a call that nobody makes. Ids are of the key's project."""

    server_id: ServerId
    agent_id: AgentId | None
    tool_name: str
    arguments: Mapping[str, Json]
    """As the strict parser made them, with numbers as they were sent."""


@frozen
class Looked:
    """What the policy says of a call, and what stands in its way besides: reasons of refusals."""

    decision: Decision
    blocked_by: tuple[str, ...]


@frozen
class DryRun:
    directory: Directory
    emergency_stop: EmergencyStop
    tool_pins: ToolPins
    policy: Policy
    budget: BudgetLook
    refused_calls: RefusedCalls

    async def decide(self, key: Key, question: Question) -> dict[str, Json]:
        """The answer of ``POST /mcp/decide``, whole; the API hides what a role may not see.

        Raises `Unready` when the policy cannot be asked now.
        """
        view = self.directory.view(key.project_id)
        server = view.servers[question.server_id]
        agent_id = question.agent_id or key.agent_id
        agent = None if agent_id is None else view.agents[agent_id]
        asserted = agent is not None and agent.id != key.agent_id
        call = _call(Caller(view.project, key, agent, asserted, server), question)
        try:
            looked = await self.look(call)
        except Refused as refused:
            if refused.retryable:
                raise Unready(refused.message) from None
            self.refused_calls.probe(key.project_id, key.id, Action.DENY.value)
            return {"action": Action.DENY.value, "reason_code": refused.reason}
        action = looked.decision.verdict.action.value
        self.refused_calls.probe(key.project_id, key.id, action)
        return _answer(looked.decision, list(looked.blocked_by))

    async def look(self, call: Call) -> Looked:
        """Ask everything of a call and refuse nothing. Raises `Refused` without a policy."""
        blocked_by = self._blocked_by(call)
        caller = call.caller
        tools = self.directory.view(caller.project.id).tools.get(caller.server.id, {})
        tool = tools.get(call.tool_name)
        pinned = Pinned(Cleared(call, self.directory.epoch), tool, must_ask=False)
        decision = await self.policy.decide(Steady(pinned))
        return Looked(decision, (*blocked_by, *self._over_budget(decision)))

    def _blocked_by(self, call: Call) -> list[str]:
        blocked = []
        try:
            self.emergency_stop.check(call.caller)
        except Refused as refused:
            blocked.append(refused.reason)
        try:
            self.tool_pins.match(Cleared(call, self.directory.epoch))
        except Refused as refused:
            if refused.reason != "unknown_tool":
                blocked.append(refused.reason)
        return blocked

    def _over_budget(self, decision: Decision) -> list[str]:
        try:
            self.budget.look(enforce(decision))
        except Refused as refused:
            if refused.reason != "policy_denied":
                return [refused.reason]
        return []


def _call(caller: Caller, question: Question) -> Call:
    request = Request("POST", caller.server.id, (), b"", client_ip="", gone=lambda: False)
    return Call(
        id=CallId(new_id("trc")),
        caller=caller,
        request=request,
        source="decide",
        era=Era.MODERN,
        rpc_id=0,
        tool_name=question.tool_name,
        arguments=question.arguments,
        meta={},
        task=None,
        input_responses=None,
        is_retry=False,
        params={"name": question.tool_name, "arguments": question.arguments},
        session=None,
    )


_REASON_CODES = {
    "ALLOW": "allowed",
    "LOG_ONLY": "allowed",
    "REQUIRE_APPROVAL": "approval_required",
    "DENY": "policy_denied",
}


def _answer(decision: Decision, blocked_by: list[str]) -> dict[str, Json]:
    verdict = decision.verdict
    return {
        "action": verdict.action.value,
        "reason_code": _REASON_CODES[verdict.action.value],
        "enforced": decision.enforced,
        "risk_level": decision.risk.value,
        "revision": verdict.bundle_digest,
        "blocked_by": blocked_by,
        "policy_ids": list(verdict.policy_ids),
        "reasons": list(verdict.reasons),
    }
