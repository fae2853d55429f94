"""Tool pins: what each kind of scan makes of a tool, and what it never does by itself."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from gateway.registry import pins, servers, tools
from gateway.registry.core import Actor, Change
from gateway.registry.faults import Conflict
from gateway.registry.pins import Assessment, Findings, Scan, observe, record_scan
from gateway.registry.servers import NewServer, ServerPatch
from gateway.registry.tools import Acceptance
from gateway.store.tables import tools as table
from gateway.values import Risk, ServerId
from tests.api.world import World, a_tool


class Crm:
    """A server of the world, active, with one accepted tool."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.id = self.change(
            lambda change: (
                servers.register(
                    change, NewServer(name="crm", server_url="https://crm.example.com/mcp")
                ).id
            )
        )
        self.scan(a_tool())
        self.change(lambda change: servers.patch(change, self.id, ServerPatch(status="ACTIVE")))

    def change(self, fn: Callable[[Change], Any]) -> Any:
        by = Actor.operator(self._world.project_id)
        return self._world.state.registry.change_now(by, fn)

    def scan(
        self, *definitions: dict[str, Any], complete: bool = True, risk: Risk = Risk.LOW
    ) -> Findings:
        assessed = {str(d.get("name")): Assessment(risk) for d in definitions}
        scan = Scan(definitions, assessed, revision=1, complete=complete)
        found: Findings = self.change(lambda change: record_scan(change, self.id, scan))
        return found

    def observe(self, *definitions: dict[str, Any]) -> Findings:
        found: Findings = self.change(lambda change: observe(change, self.id, definitions))
        return found

    def accept(self, name: str) -> None:
        row = self.row(name)
        body = Acceptance(definition_sha256=row.current_sha256, reason="read it")
        self.change(lambda change: tools.accept(change, row.id, body))

    def row(self, name: str) -> Any:
        query = select(table).where(table.c.server_id == self.id, table.c.name == name)
        return self._world.state.registry.read_now(lambda c: c.execute(query).one())

    def pins(self) -> dict[str, str]:
        query = select(table.c.name, table.c.pin).where(table.c.server_id == self.id)
        rows = self._world.state.registry.read_now(lambda c: list(c.execute(query)))
        return {row.name: row.pin for row in rows}

    def pin(self) -> str:
        return self.pins()["query_records"]


@pytest.fixture
def crm(world: World) -> Crm:
    return Crm(world)


def test_the_same_definition_in_another_spelling_stays_accepted(crm: Crm) -> None:
    spelled = {**reversed_keys(a_tool()), "_meta": {"at": 1}}
    assert crm.scan(spelled).changed == []
    assert crm.pin() == "ACCEPTED"


def reversed_keys(tool: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(list(tool.items())))


def test_a_changed_definition_stays_changed_though_it_goes_back(crm: Crm) -> None:
    assert crm.scan(a_tool(description="Read and send")).changed == ["query_records"]
    assert crm.pin() == "CHANGED"
    crm.scan(a_tool())
    assert crm.pin() == "CHANGED"
    crm.accept("query_records")
    assert crm.pin() == "ACCEPTED"


def test_gone_is_concluded_from_a_complete_walk_only(crm: Crm) -> None:
    assert crm.scan(complete=False).removed == []
    assert crm.pin() == "ACCEPTED"
    crm.observe()
    assert crm.pin() == "ACCEPTED"
    assert crm.scan().removed == ["query_records"]
    assert crm.pin() == "GONE"


def test_gone_and_back_is_a_change_even_when_nothing_changed(crm: Crm) -> None:
    crm.scan()
    with pytest.raises(Conflict):
        crm.accept("query_records")
    crm.scan(a_tool())
    assert crm.pin() == "CHANGED"


def test_a_new_tool_waits(crm: Crm) -> None:
    assert crm.scan(a_tool(), a_tool("send_email")).added == ["send_email"]
    assert crm.pins() == {"query_records": "ACCEPTED", "send_email": "PENDING"}


@pytest.mark.parametrize("twin", ["Query_Records", "query_record\uff53"])
def test_a_name_that_folds_to_another_makes_both_suspect(crm: Crm, twin: str) -> None:
    assert set(crm.scan(a_tool(), a_tool(twin)).suspects) == {"query_records", twin}
    assert set(crm.pins().values()) == {"SUSPECT"}
    # Whoever accepts one of them has seen the other, so the next scan does not undo it.
    crm.accept("query_records")
    crm.scan(a_tool(), a_tool(twin))
    assert crm.pins() == {"query_records": "ACCEPTED", twin: "SUSPECT"}


def test_a_name_that_folds_to_one_that_is_gone_is_suspect(crm: Crm) -> None:
    """Whoever takes the place of a tool that people knew is not believed for its name."""
    crm.scan()
    assert crm.scan(a_tool("Query_Records")).suspects == ["Query_Records"]
    assert crm.pins() == {"query_records": "GONE", "Query_Records": "SUSPECT"}


def test_a_suspect_stays_one_when_its_twin_is_gone(crm: Crm) -> None:
    crm.scan(a_tool(), a_tool("Query_Records"))
    for _ in range(2):
        crm.scan(a_tool())
        assert crm.pins() == {"query_records": "SUSPECT", "Query_Records": "GONE"}


def test_a_name_with_nul_stays_unknown_and_what_it_is_like_suspect(crm: Crm) -> None:
    twin, other = a_tool("query_records\x00"), a_tool("other\x00")
    assert crm.scan(a_tool(), twin, other).suspects == ["query_records"]
    crm.accept("query_records")
    crm.scan(a_tool(), twin, other)
    assert crm.pins() == {"query_records": "SUSPECT"}
    crm.scan(a_tool())
    crm.accept("query_records")
    crm.scan(a_tool())
    assert crm.pins() == {"query_records": "ACCEPTED"}


def test_two_definitions_of_one_name_are_suspect(crm: Crm) -> None:
    crm.scan(a_tool(), a_tool(description="another"))
    assert crm.pin() == "SUSPECT"
    crm.scan(a_tool())
    assert crm.pin() == "SUSPECT"  # until somebody has looked


def test_two_definitions_are_suspect_though_a_twin_was_accepted_beside_them(crm: Crm) -> None:
    twin = a_tool("Query_Records")
    crm.scan(a_tool(), twin)
    crm.accept("query_records")
    crm.accept("Query_Records")
    crm.scan(a_tool(), twin)
    assert set(crm.pins().values()) == {"ACCEPTED"}
    crm.scan(a_tool(), twin, a_tool(description="another"))
    assert crm.pins() == {"query_records": "SUSPECT", "Query_Records": "ACCEPTED"}


def test_a_suspect_is_not_accepted_with_its_server(crm: Crm) -> None:
    crm.scan(a_tool(), a_tool("a"), a_tool("A"), a_tool("b"))
    crm.change(lambda change: tools.accept_scanned(change, crm.id))
    assert crm.pins() == {
        "query_records": "ACCEPTED",
        "a": "SUSPECT",
        "A": "SUSPECT",
        "b": "ACCEPTED",
    }


def test_what_nobody_assessed_counts_as_critical_until_a_scan(crm: Crm) -> None:
    crm.observe(a_tool(), a_tool("send_email"))
    assert crm.row("query_records").risk_computed == "LOW"
    assert crm.row("send_email").risk_computed == "CRITICAL"
    crm.scan(a_tool(), a_tool("send_email"), risk=Risk.MEDIUM)
    assert crm.row("send_email").risk_computed == "MEDIUM"


def test_a_changed_definition_cannot_talk_its_risk_down(world: World, crm: Crm) -> None:
    crm.scan(a_tool(), risk=Risk.HIGH)
    crm.scan(a_tool(description="Harmless, truly"), risk=Risk.LOW)
    view = world.state.directory.view(world.project_id)
    assert view.tools[ServerId(crm.id)]["query_records"].risk is Risk.HIGH
    crm.accept("query_records")
    view = world.state.directory.view(world.project_id)
    assert view.tools[ServerId(crm.id)]["query_records"].risk is Risk.LOW


def test_a_definition_without_a_name_is_passed_over(crm: Crm) -> None:
    assert crm.scan(a_tool(), {"description": "x"}).tools == 1
    assert crm.pin() == "ACCEPTED"


def test_a_scan_of_hundreds_of_changes_fits_its_records(crm: Crm) -> None:
    many = [a_tool("t" * 400 + str(number)) for number in range(300)]
    crm.scan(*many)
    assert len(crm.scan().removed) == 300


def test_a_list_without_an_end_does_not_fill_the_table(
    crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "MOST_TOOLS", 3)
    found = crm.observe(a_tool(description="other"), *(a_tool(f"t{n}") for n in range(9)))
    assert found.added == ["t0", "t1"]
    assert crm.pins() == {"query_records": "CHANGED", "t0": "PENDING", "t1": "PENDING"}
    assert crm.observe(a_tool("t7"), a_tool("Query_records")).added == []
    crm.scan(a_tool(), a_tool("t7"), a_tool("t8"))
    assert crm.pins()["t8"] == "PENDING"
