"""`/mcp/decide`: what Verify would say of a call that nobody makes. It changes nothing."""

from typing import Any

from pydantic import Field

from gateway.api.call import ApiCall
from gateway.api.models import Output
from gateway.dry_run import Question
from gateway.registry.directory import ProjectView
from gateway.registry.faults import Forbidden, Missing
from gateway.registry.fields import Id, Input, Term
from gateway.values import Action, AgentId, Key, Risk, Role, ServerId


class ToolName(Input):
    name: Term


class DecideBody(Input):
    server_id: Id
    agent_id: Id | None = None
    tool: ToolName
    arguments: dict[str, Any] = Field(default_factory=dict)


class Answer(Output):
    """`policy_ids` and `reasons` are for admins: they would tell an agent how to get around."""

    action: Action
    reason_code: str | None = None
    risk_level: Risk | None = None
    revision: str | None = Field(default=None, description="The digest of the bundle that decided")
    blocked_by: list[str] = Field(
        default=[], description="Reasons besides the policy for which the call would be refused"
    )
    enforced: bool = Field(default=True, description="False in monitor mode: the call would pass")
    policy_ids: list[str] | None = None
    reasons: list[str] | None = None


async def decide(call: ApiCall, body: DecideBody) -> Answer:
    view = call.context.registry.directory.view(call.project_id)
    question = Question(
        server_id=_server(call.key, view, body.server_id),
        agent_id=_agent(call.key, view, body.agent_id),
        tool_name=body.tool.name,
        arguments=call.document.get("arguments", {}),
    )
    answer = Answer.model_validate(await call.context.decide(call.key, question))
    if call.key.role is Role.ADMIN:
        return answer
    return answer.model_copy(update={"policy_ids": None, "reasons": None})


def _server(key: Key, view: ProjectView, asked: str) -> ServerId:
    server_id = ServerId(asked)
    is_listed = key.server_ids is None or server_id in key.server_ids
    if server_id not in view.servers or not is_listed:
        raise Missing("server")
    return server_id


def _agent(key: Key, view: ProjectView, asked: str | None) -> AgentId | None:
    """Agents ask as themselves; an administrator may ask for any."""
    if key.role is Role.PROJECT:
        if asked not in (None, key.agent_id):
            raise Forbidden("A project key decides as itself only.")
        return key.agent_id
    if asked is None:
        return None
    agent_id = AgentId(asked)
    if agent_id not in view.agents:
        raise Missing("agent")
    return agent_id
