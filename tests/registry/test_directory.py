"""What the hot path looks up: as it stands in the database, live when a change is answered."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, insert, update

from gateway.keyring import encrypt
from gateway.registry import agents, rules
from gateway.registry.agents import NewAgent
from gateway.registry.core import Actor
from gateway.registry.directory import ProjectView
from gateway.registry.reading import READ
from gateway.registry.rules import NewRule
from gateway.store import tables
from gateway.store.rows import run
from gateway.values import Action, AgentId, ProjectId, Risk, ServerId
from tests import places
from tests.builders import SECRET, TOOL, World, a_state, a_tool

PROJECT, SERVER = ProjectId("prj_1"), ServerId("srv_1")
ROOT = Path(__file__).parents[2]
NOW = "2026-06-01T00:00:00.000000Z"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as world:
        yield world


def view(world: World) -> ProjectView:
    return world.state.directory.view(PROJECT)


def add_rule(world: World, **values: Any) -> None:
    row: dict[str, Any] = {"id": f"pol_{len(view(world).rules)}", "project_id": "prj_1"}
    row |= {"action": "DENY", "reason": "", "enabled": True, "created_at": NOW, **values}
    world.change(lambda c: c.execute(insert(tables.rules).values(**row)))


def test_a_change_is_seen_when_it_is_answered_and_raises_the_epoch(world: World) -> None:
    before = world.state.directory.epoch
    world.set("servers", "srv_1", status="BLOCKED")
    assert view(world).servers[SERVER].status == "BLOCKED"
    assert world.state.directory.epoch == before + 1


def test_a_view_that_is_held_does_not_change(world: World) -> None:
    held = view(world)
    world.set("agents", "agt_1", state="PAUSED")
    assert held.agents[AgentId("agt_1")].state == "ACTIVE"
    assert view(world).agents[AgentId("agt_1")].state == "PAUSED"


def test_what_was_rolled_back_is_not_seen_and_raises_nothing(world: World) -> None:
    before = world.state.directory.epoch

    def fail(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE agents SET state = 'PAUSED'")
        raise LookupError("no")

    with pytest.raises(LookupError):
        world.change(fail)
    assert view(world).agents[AgentId("agt_1")].state == "ACTIVE"
    assert world.state.directory.epoch == before


def test_a_restart_reads_what_the_last_process_saw(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        add_rule(world)
        world.add_budget(3)
        before = view(world)
    with a_state(tmp_path) as world:
        after = view(world)
    for name in ("project", "agents", "servers", "rules", "budgets", "keys", "stops"):
        assert getattr(after, name) == getattr(before, name)


def test_a_key_is_found_by_its_secret_until_it_is_revoked(world: World) -> None:
    key = world.state.directory.key_of(SECRET)
    assert key is not None
    assert key.agent_ids == {"agt_1"}
    assert world.state.directory.key_of(SECRET + "x") is None
    world.set("keys", "key_1", state="REVOKED")
    assert world.state.directory.key_of(SECRET) is None
    assert "key_1" not in view(world).keys


def test_the_agents_of_a_key_are_its_own_and_those_that_it_may_name(world: World) -> None:
    row = {"id": "agt_2", "project_id": "prj_1", "name": "helper", "owner": "olga"}
    row |= {"description": "", "state": "ACTIVE", "created_at": NOW}
    world.set("keys", "key_1", may_assert=["helper", "not made yet"])
    assert view(world).keys[world.caller.key.id].agent_ids == {"agt_1"}
    world.change(lambda c: c.execute(insert(tables.agents).values(**row)))
    assert view(world).keys[world.caller.key.id].agent_ids == {"agt_1", "agt_2"}


def test_a_servers_credential_is_sealed_on_disk_and_open_in_memory(world: World) -> None:
    headers = orjson.dumps([["authorization", "Bearer upstream-secret"]])
    sealed = encrypt(world.state.keyring.data, headers, b"srv_1")
    world.set("servers", "srv_1", auth_sealed=sealed)
    assert view(world).servers[SERVER].auth_headers == (
        (b"authorization", b"Bearer upstream-secret"),
    )
    assert b"upstream-secret" not in places.stored(world.state.data_dir)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({}, True),
        ({"agent_id": "agt_1"}, True),
        ({"agent_id": "agt_2"}, False),
        ({"server_id": "srv_1"}, True),
        ({"server_id": "srv_2"}, False),
        ({"mcp_tool_id": "tol_1"}, True),
        ({"mcp_tool_id": "tol_2"}, False),
        ({"tool_pattern": "query_*"}, True),
        ({"tool_pattern": "Query_*"}, False),
        ({"min_risk": "LOW"}, True),
        ({"min_risk": "MEDIUM"}, False),
        ({"expires_at": "2026-06-01T00:00:00.000001Z"}, True),
        ({"expires_at": NOW}, False),
        ({"enabled": False}, False),
        ({"agent_id": "agt_1", "server_id": "srv_2"}, False),
    ],
)
def test_a_rule_matches_where_all_that_it_names_matches(
    world: World, rule: dict[str, Any], matches: bool
) -> None:
    add_rule(world, **rule)
    caller = world.caller
    found = view(world).matching_rules(caller.agent, caller.server, TOOL, world.tool, NOW)
    assert [one.action for one in found] == [Action.DENY] * matches


def test_a_rule_for_risky_tools_covers_one_that_nobody_knows(world: World) -> None:
    add_rule(world, min_risk="CRITICAL")
    caller = world.caller
    rules = view(world).matching_rules
    assert rules(caller.agent, caller.server, "other", None, NOW)
    risky, safe = a_tool(risk=Risk.CRITICAL), a_tool(risk=Risk.HIGH)
    assert rules(caller.agent, caller.server, TOOL, risky, NOW)
    assert not rules(caller.agent, caller.server, TOOL, safe, NOW)


def test_a_rule_for_an_agent_is_none_for_a_key_without_one(world: World) -> None:
    add_rule(world, agent_id="agt_1")
    assert not view(world).matching_rules(None, world.caller.server, TOOL, world.tool, NOW)


def test_an_administrators_view_of_the_risk_wins(world: World) -> None:
    world.set("tools", "tol_1", risk_override="CRITICAL")
    assert (world.tool.risk, world.tool.risk_computed) == (Risk.CRITICAL, Risk.LOW)


def test_the_accepted_schema_counts_and_not_the_one_that_is_offered_now(world: World) -> None:
    loose = orjson.dumps({"name": TOOL, "inputSchema": {}}).decode()
    world.set("tools", "tol_1", current=loose, current_sha256="c" * 64, pin="CHANGED")
    assert world.tool.definition_sha256 == "d" * 64
    assert world.tool.argument_fault({"object": 5}) is not None


def test_only_what_a_change_wrote_to_is_read_anew(world: World) -> None:
    registry, by = world.state.registry, Actor.operator(PROJECT)
    before = view(world)
    registry.change_now(by, lambda c: rules.create(c, NewRule(action=Action.DENY, reason="no")))
    ruled = view(world)
    assert [rule.reason for rule in ruled.rules] == ["no"]
    assert (ruled.agents, ruled.keys) == (before.agents, before.keys)
    assert ruled.agents is before.agents
    registry.change_now(by, lambda c: agents.create(c, NewAgent(name="another", owner="olga")))
    grown = view(world)
    assert set(grown.agents_by_name) == {*before.agents_by_name, "another"}
    assert grown.agents[AgentId("agt_1")] is before.agents[AgentId("agt_1")]
    assert grown.keys is before.keys
    assert grown.matching is ruled.matching, "what is known of rules outlives a change of others"


def test_what_another_gateway_changed_meanwhile_is_read_too(world: World) -> None:
    def elsewhere(connection: Connection) -> None:
        # Straight to the driver, as if it were not this gateway's statement.
        run(connection, "UPDATE agents SET state = 'PAUSED' WHERE id = ?", ("agt_1",))
        run(connection, "UPDATE projects SET changes = changes + 1 WHERE id = ?", (PROJECT,))

    registry, by = world.state.registry, Actor.operator(PROJECT)
    registry.change_now(by, lambda c: rules.create(c, NewRule(action=Action.DENY, reason="no")))
    world.state.writer.change_now(elsewhere)
    assert view(world).agents[AgentId("agt_1")].state == "ACTIVE"
    registry.change_now(by, lambda c: rules.create(c, NewRule(action=Action.ALLOW, reason="yes")))
    assert view(world).agents[AgentId("agt_1")].state == "PAUSED"


def test_what_nobody_counted_is_read_with_the_next_change(world: World) -> None:
    registry, by = world.state.registry, Actor.operator(PROJECT)
    registry.change_now(by, lambda c: rules.create(c, NewRule(action=Action.DENY, reason="no")))
    pause = update(tables.agents).where(tables.agents.c.id == "agt_1").values(state="PAUSED")
    world.state.writer.change_now(lambda c: c.execute(pause).rowcount)
    registry.change_now(by, lambda c: rules.create(c, NewRule(action=Action.ALLOW, reason="yes")))
    assert view(world).agents[AgentId("agt_1")].state == "PAUSED"


def test_no_statement_goes_past_the_directory_to_what_it_reads() -> None:
    names = "|".join(sorted(READ))
    writing = re.compile(rf"(?:INTO|UPDATE|DELETE FROM)\s+\"?(?:{names})\b")
    for path in ROOT.joinpath("gateway").rglob("*.py"):
        if "migrations" not in path.parts:
            assert not writing.search(path.read_text()), path


def test_of_many_rules_those_that_match_come_in_their_order(world: World) -> None:
    caller, tool = world.caller, world.tool
    agent, server = caller.agent, caller.server
    assert agent is not None
    naming: list[dict[str, Any]] = [
        *({"tool_pattern": pattern} for pattern in ("*", TOOL, "query_?ecords", "[q]uery*", "q")),
        *({"agent_id": one} for one in (agent.id, "agt_2")),
        *({"server_id": one, "tool_pattern": TOOL} for one in (server.id, "srv_2")),
        *({"mcp_tool_id": one, "tool_pattern": "*_records"} for one in (tool.id, "tol_2")),
        *({"agent_id": agent.id, "tool_pattern": p} for p in ("query_[!r]*", "query_[!a]*")),
        {},
    ]
    for n in range(20):
        add_rule(world, id=f"pol_{n:03}", tool_pattern=f"other_{n}*")
    for n, named in enumerate(naming):
        add_rule(world, id=f"pol_{10 + n:03}_b", **named)
    found = view(world).matching_rules(agent, server, TOOL, tool, NOW)
    fitting = (0, 1, 2, 3, 5, 7, 9, 12, 13)
    assert [rule.id for rule in found] == [f"pol_{10 + n:03}_b" for n in fitting]
