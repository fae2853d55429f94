"""`/agents`: who makes calls, and their states."""

from typing import Any

from sqlalchemy import Connection, Row

from gateway.api.budgets import BudgetOut, shown
from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import agents, budgets
from gateway.registry.agents import AgentPatch, Move, NewAgent
from gateway.values import Stop, StopId


class AgentOut(Output):
    id: str
    name: str
    owner: str
    description: str
    state: str
    created_at: str


async def list_agents(call: ApiCall, query: ListQuery) -> Listing[AgentOut]:
    page = await call.read(lambda c: agents.listed(c, call.project_id, query.cursor, query.limit))
    return listing(page, _shown)


async def create(call: ApiCall, body: NewAgent) -> AgentOut:
    return await call.change(lambda change: _shown(agents.create(change, body)))


async def get(call: ApiCall) -> AgentOut:
    return _shown(await call.read(lambda c: agents.get(c, call.project_id, call.path["id"])))


async def patch(call: ApiCall, body: AgentPatch) -> AgentOut:
    return await call.change(lambda change: _shown(agents.patch(change, call.path["id"], body)))


async def pause(call: ApiCall) -> AgentOut:
    return await _move(call, "pause")


async def resume(call: ApiCall) -> AgentOut:
    return await _move(call, "resume")


async def suspend(call: ApiCall) -> AgentOut:
    return await _move(call, "suspend")


async def revoke(call: ApiCall) -> AgentOut:
    return await _move(call, "revoke")


async def list_budgets(call: ApiCall, query: ListQuery) -> Listing[BudgetOut]:
    def read(connection: Connection) -> Listing[BudgetOut]:
        agent = agents.get(connection, call.project_id, call.path["id"])
        page = budgets.listed(connection, call.project_id, query.cursor, query.limit, agent.id)
        return listing(page, lambda row: shown(connection, row, call.now))

    return await call.read(read)


async def _move(call: ApiCall, to: Move) -> AgentOut:
    moved = await call.change(lambda change: _shown(agents.move(change, call.path["id"], to)))
    if moved.state != "ACTIVE":
        # As a stop does: in force with the commit, and after it what still runs is cut.
        why = f"the agent is {moved.state}"
        stop = Stop(StopId(moved.id), call.project_id, "agent", moved.id, why)
        call.context.cancel_calls(stop)
    return moved


def _shown(row: Row[Any]) -> AgentOut:
    return AgentOut.model_validate(row)
