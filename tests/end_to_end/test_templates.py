"""Templates through the real API and a real OPA: decided, parametrised, overridden, confirmed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.clock import after
from gateway.dry_run import DryRun
from gateway.policy.bundles import build_bundle
from gateway.policy.sources import the_sources
from gateway.records.refused_calls import RefusedCalls
from gateway.steps.budget import BudgetLook
from gateway.steps.emergency_stop import EmergencyStop
from gateway.steps.policy import Policy
from gateway.steps.tool_pins import ToolPins
from gateway.values import Role
from tests.api.world import World, a_world
from tests.policy.world import KEY, running, the_opa

pytestmark = pytest.mark.anyio

DELETE = {"tool": {"name": "deleteSobjectRecord"}, "arguments": {"sobject-name": "Account"}}
QUERY = {"tool": {"name": "soqlQuery"}, "arguments": {"q": "SELECT Id FROM Account LIMIT 5000"}}


@dataclass
class Gateway:
    """The API over a database, deciding with OPA; the admin's client, and a server's id."""

    world: World
    admin: httpx.AsyncClient
    server: str

    async def agent(self, name: str) -> tuple[str, str]:
        """A new agent's id, and the secret of a key of its own."""
        body = {"name": name, "owner": "Kim"}
        agent_id = str((await self.admin.post("agents", json=body)).json()["id"])
        return agent_id, self.world.key(agent_id=agent_id)[1]

    async def decided(self, secret: str, call: dict[str, Any]) -> str:
        """The action for a call with the key."""
        async with self.world.client(secret) as client:
            answer = await client.post("mcp/decide", json=call | {"server_id": self.server})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["action"])

    def override(self, policy: str, action: str, **given: Any) -> dict[str, Any]:
        expires = after(self.world.state.clock.now(), 86_400)
        body = {"policy_id": policy, "action": action, "reason": "test", "expires_at": expires}
        return body | given


@asynccontextmanager
async def a_gateway(folder: Path) -> AsyncIterator[Gateway]:
    bundle = build_bundle(the_sources(), opa=the_opa(), key=KEY)
    with a_world(folder / "data") as world:
        async with running(folder / "opa", bundle) as opa:
            state = world.state
            dry_run = DryRun(
                state.directory,
                EmergencyStop(state.directory, lambda: None),
                ToolPins(state.directory),
                Policy(opa.engine, view=state.directory.view, now=state.clock.now),
                BudgetLook(state.directory, state.ledger, state.clock.now),
                RefusedCalls(state.writer, state.log, state.clock.now),
            )
            world.context = replace(world.context, decide=dry_run.decide)
            async with world.client() as admin:
                made = await admin.post(
                    "mcp/servers/from-template", json={"template": "salesforce"}
                )
                assert made.status_code == 201, made.text
                yield Gateway(world, admin, made.json()["id"])


async def test_overrides_and_parameters_decide_until_they_expire(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as gateway:
        ann_id, ann = await gateway.agent("ann")
        _, bob = await gateway.agent("bob")
        assert await gateway.decided(ann, DELETE) == "REQUIRE_APPROVAL"
        path = f"mcp/servers/{gateway.server}/overrides"
        one = gateway.override("sf-record-delete", "LOG_ONLY", agent_id=ann_id)
        assert (await gateway.admin.post(path, json=one)).status_code == 201
        assert await gateway.decided(ann, DELETE) == "LOG_ONLY"
        assert await gateway.decided(bob, DELETE) == "REQUIRE_APPROVAL"
        # Disabled for everybody; what holds for one agent outranks it.
        policy = f"mcp/policies/{gateway.server}:sf-record-delete"
        assert (await gateway.admin.delete(policy, params={"reason": "x"})).status_code == 204
        assert await gateway.decided(bob, DELETE) == "ALLOW"
        assert await gateway.decided(ann, DELETE) == "LOG_ONLY"
        assert await gateway.decided(bob, QUERY) == "DENY"
        server = f"mcp/servers/{gateway.server}"
        await gateway.admin.patch(server, json={"params": {"bulk_row_limit": 5000}})
        assert await gateway.decided(bob, QUERY) == "ALLOW"
        gateway.world.state.clock.not_before(after(one["expires_at"], 60 * 86_400))
        assert await gateway.decided(ann, DELETE) == "REQUIRE_APPROVAL"
        assert await gateway.decided(bob, DELETE) == "REQUIRE_APPROVAL"


async def test_an_override_that_waits_for_a_second_person_decides_nothing(tmp_path: Path) -> None:
    async with a_gateway(tmp_path) as gateway:
        _, second = gateway.world.key(Role.ADMIN, owner="Sam")
        _, ann = await gateway.agent("ann")
        path = f"mcp/servers/{gateway.server}/overrides"
        asked = await gateway.admin.post(path, json=gateway.override("sf-record-delete", "ALLOW"))
        assert asked.status_code == 202
        assert await gateway.decided(ann, DELETE) == "REQUIRE_APPROVAL"
        async with gateway.world.client(second) as other:
            proposal = f"proposals/{asked.json()['proposal_id']}/confirm"
            assert (await other.post(proposal, json={"reason": "x"})).status_code == 200
        assert await gateway.decided(ann, DELETE) == "ALLOW"
        # Tightening waits for nobody.
        strict = gateway.override("sf-record-delete", "DENY")
        assert (await gateway.admin.post(path, json=strict)).status_code == 201
        assert await gateway.decided(ann, DELETE) == "DENY"
