"""What Verify would answer, asked without acting: nothing is admitted, charged or spent.

The policy is asked for any tool name, whether a scan knows it or not, and whatever stands in the
way besides the policy is named beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.ids import new_id
from gateway.mcp.strictness import check_values
from gateway.refusals import Refused
from gateway.refused_calls import RefusedCalls
from gateway.registry.directory import Directory
from gateway.steps.budget import BudgetLook
from gateway.steps.emergency_stop import EmergencyStop
from gateway.steps.enforcement import enforce
from gateway.steps.policy import Policy
from gateway.steps.tool_pins import ToolPins
from gateway.values import (
    Agent,
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
    Role,
    Server,
)


@dataclass(frozen=True, slots=True)
class DryRun:
    directory: Directory
    emergency_stop: EmergencyStop
    tool_pins: ToolPins
    policy: Policy
    budget: BudgetLook
    refused_calls: RefusedCalls

    async def decide(
        self,
        key: Key,
        server: Server,
        agent: Agent | None,
        tool_name: str,
        arguments: Mapping[str, Json],
        client_ip: str,
    ) -> dict[str, Any]:
        """The answer of ``POST /mcp/decide``. Raises `Refused` when the policy cannot be asked.

        ``arguments`` come from the strict parser. Policy ids and reasons are for admins only.
        """
        check_values({"arguments": dict(arguments)})
        view = self.directory.view(key.project_id)
        asserted = agent is not None and agent.id != key.agent_id
        caller = Caller(view.project, key, agent, asserted, server)
        call = _call(caller, tool_name, arguments, client_ip)
        blocked_by = self._blocked_by(call)
        tool = view.tools[server.id].get(tool_name)
        pinned = Pinned(Cleared(call, self.directory.epoch), tool, must_ask=False)
        decision = await self.policy.decide(pinned)
        blocked_by += self._over_budget(decision)
        self.refused_calls.probe(key.project_id, key.id, decision.verdict.action.value)
        return _answer(decision, blocked_by, key.role is Role.ADMIN)

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


def _call(caller: Caller, tool_name: str, arguments: Mapping[str, Json], client_ip: str) -> Call:
    request = Request("POST", caller.server.id, (), b"", client_ip, gone=lambda: False)
    return Call(
        id=CallId(new_id("trc")),
        caller=caller,
        request=request,
        source="decide",
        era=Era.MODERN,
        rpc_id=0,
        tool_name=tool_name,
        arguments=arguments,
        meta={},
        task=None,
        input_responses=None,
        is_retry=False,
        params={"name": tool_name, "arguments": arguments},
        session=None,
    )


_REASON_CODES = {
    "ALLOW": "allowed",
    "LOG_ONLY": "allowed",
    "REQUIRE_APPROVAL": "approval_required",
    "DENY": "policy_denied",
}


def _answer(decision: Decision, blocked_by: list[str], full: bool) -> dict[str, Any]:
    verdict = decision.verdict
    answer: dict[str, Any] = {
        "action": verdict.action.value,
        "reason_code": _REASON_CODES[verdict.action.value],
        "enforced": decision.enforced,
        "risk_level": decision.risk.value,
        "revision": verdict.bundle_digest,
        "blocked_by": blocked_by,
    }
    if full:
        answer["policy_ids"] = list(verdict.policy_ids)
        answer["reasons"] = list(verdict.reasons)
    return answer
