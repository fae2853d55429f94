"""The circuit breaker's openings: on the trail, and the agent paused or suspended by the rule."""

from typing import Literal

from gateway.frozen import frozen
from gateway.registry import agents
from gateway.registry.core import Change
from gateway.trace.record import Field as Code
from gateway.values import AgentId, KeyId, ProjectId


@frozen
class Trip:
    """The breaker opened."""

    project_id: ProjectId
    agent_id: AgentId | None
    """None: the key's own breaker."""
    key_id: KeyId
    cause: Literal["repeats", "refusals"]
    limit: int
    action: Literal["ask", "pause", "suspend"]
    enforced: bool


def note(change: Change, trip: Trip) -> bool:
    """Put it on the trail; return whether the agent is stopped by it."""
    codes: dict[str, Code] = {
        "agent": trip.agent_id,
        "key": trip.key_id,
        "cause": trip.cause,
        "limit": trip.limit,
        "action": trip.action,
        "enforced": trip.enforced,
    }
    change.record("breaker.tripped", trip.agent_id or trip.key_id, codes=codes)
    if trip.agent_id is None or trip.action == "ask" or not trip.enforced:
        return False
    agent = agents.get(change.connection, change.project_id, trip.agent_id)
    if agent.state != "ACTIVE":
        return False
    agents.move(change, trip.agent_id, trip.action)
    return True
