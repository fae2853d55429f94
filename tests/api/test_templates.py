"""Servers from a template: made with one word, bounded, listed, disabled, brought up to date."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.clock import after
from gateway.values import Role, ServerId
from tests.api.world import World, a_tool
from tests.policy.test_templates import a_template

pytestmark = pytest.mark.anyio


async def _made(client: httpx.AsyncClient, **given: Any) -> dict[str, Any]:
    body = {"template": "salesforce"} | given
    answer = await client.post("mcp/servers/from-template", json=body)
    assert answer.status_code == 201, answer.text
    server: dict[str, Any] = answer.json()
    return server


def _offer(world: World, folder: Path) -> None:
    world.state.registry.templates.folder = folder


def _faults(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 400, answer.text
    return {d["field"]: d["message"] for d in answer.json()["error"]["details"]}


async def test_a_template_says_what_it_decides_takes_and_covers(world: World) -> None:
    async with world.client() as client:
        items = (await client.get("mcp/templates")).json()["items"]
        assert [item["name"] for item in items] == ["copilot", "salesforce", "servicenow"]
        one = (await client.get("mcp/templates/salesforce")).json()
        assert one in items
        assert len(one["policies"]) == 6
        assert one["parameters"]["properties"]["bulk_row_limit"]["maximum"] == 10_000
        assert (await client.get("mcp/templates/crm")).status_code == 404


async def test_a_server_is_made_with_the_templates_name_alone(world: World) -> None:
    async with world.client() as client:
        server = await _made(client)
        assert (server["name"], server["slug"]) == ("Salesforce", "salesforce")
        assert (server["status"], server["server_url"]) == ("PENDING_APPROVAL", "")
        assert server["params"] == {"bulk_row_limit": 2000, "protected_objects": []}
        assert server["template_version"] == server["available_version"]
        assert server["template_changes"] == []
        assert len(server["policies"]) == 6
        # Another one without a URL is not taken for one of the same origin.
        assert (await _made(client))["slug"] == "salesforce_2"
        view = world.state.directory.view(world.project_id)
        found = view.servers[ServerId(server["id"])]
        assert (found.template, found.params) == ("salesforce", server["params"])


async def test_a_server_without_a_url_is_not_activated_until_it_has_one(world: World) -> None:
    async with world.client() as client:
        path = f"mcp/servers/{(await _made(client))['id']}"
        for answer in (
            await client.patch(path, json={"status": "ACTIVE"}),
            await client.post(f"{path}/scan"),
        ):
            assert answer.status_code == 409
            assert "PATCH it with server_url" in answer.json()["error"]["message"]
        assert world.upstream.scans == 0
        await client.patch(path, json={"server_url": "https://sf.example.com/mcp"})
        active = await client.patch(path, json={"status": "ACTIVE"})
        assert active.json()["status"] == "ACTIVE"


async def test_parameters_that_a_mistake_would_undo_are_refused_by_field(world: World) -> None:
    async with world.client() as client:
        body = {"template": "salesforce", "params": {"bulk_row_limit": 10**9, "all": True}}
        wrong = _faults(await client.post("mcp/servers/from-template", json=body))
        assert wrong.keys() == {"params.bulk_row_limit", "params"}
        for domain in ("*", "co.uk", "com"):
            body = {"template": "copilot", "params": {"internal_domains": ["corp.example", domain]}}
            wrong = _faults(await client.post("mcp/servers/from-template", json=body))
            assert wrong.keys() == {"params.internal_domains.1"}
        wrong = _faults(await client.post("mcp/servers/from-template", json={"template": "crm"}))
        assert "salesforce" in wrong["template"]
        there = (await client.get("mcp/servers")).json()["items"]
        assert {server["connector_type"] for server in there} <= {"custom"}


async def test_a_parameter_is_changed_alone_and_null_gives_its_default(world: World) -> None:
    async with world.client() as client:
        server = await _made(client, params={"protected_objects": ["Account"]})
        path = f"mcp/servers/{server['id']}"
        changed = await client.patch(path, json={"params": {"bulk_row_limit": 10}})
        assert changed.json()["params"] == {"bulk_row_limit": 10, "protected_objects": ["Account"]}
        changed = await client.patch(path, json={"params": {"protected_objects": None}})
        assert changed.json()["params"] == {"bulk_row_limit": 10, "protected_objects": []}
        assert changed.json()["status"] == "PENDING_APPROVAL"
        for params in ({"bulk_row_limit": 0}, {"more": None}):
            _faults(await client.patch(path, json={"params": params}))
        body = {"name": "own", "server_url": "https://own.example.com"}
        own = (await client.post("mcp/servers", json=body)).json()["id"]
        _faults(await client.patch(f"mcp/servers/{own}", json={"params": {"bulk_row_limit": 1}}))


async def test_templates_policies_are_listed_behind_the_rules_page_by_page(world: World) -> None:
    async with world.client() as client:
        servers = [(await _made(client))["id"] for _ in range(2)]
        rules = [
            (await client.post("mcp/policies", json={"action": "DENY"})).json()["id"]
            for _ in range(3)
        ]
        whole = (await client.get("mcp/policies", params={"limit": 200})).json()
        assert whole["next_cursor"] is None
        assert [item["id"] for item in whole["items"][:3]] == rules
        brought = whole["items"][3:]
        assert all(item["is_auto_generated"] for item in brought)
        assert [item["template"] for item in brought] == ["salesforce"] * 12
        assert {item["server_id"] for item in brought} == set(servers)
        for limit in (1, 3, 5):
            paged: list[Any] = []
            query: dict[str, Any] = {"limit": limit}
            while True:
                page = (await client.get("mcp/policies", params=query)).json()
                paged += page["items"]
                if page["next_cursor"] is None:
                    break
                query["cursor"] = page["next_cursor"]
            assert paged == whole["items"]


async def test_deleting_a_templates_policy_disables_it_by_a_reasoned_override(
    world: World,
) -> None:
    async with world.client() as client:
        server = (await _made(client))["id"]
        path = f"mcp/policies/{server}:sf-record-delete"
        assert (await client.get(path)).json()["action"] == "REQUIRE_APPROVAL"
        assert _faults(await client.delete(path)).keys() == {"reason"}
        assert (await client.delete(path, params={"reason": "migration"})).status_code == 204
        shown = (await client.get(path)).json()
        assert (shown["action"], shown["enabled"]) == ("ALLOW", False)
        [override] = (await client.get(f"mcp/servers/{server}/overrides")).json()["items"]
        assert shown["overrides"] == [override["id"]]
        assert (override["action"], override["reason"]) == ("ALLOW", "migration")
        now = world.state.clock.now()
        assert after(now, 29 * 86_400) < override["expires_at"] < after(now, 31 * 86_400)
        await client.delete(f"mcp/servers/{server}/overrides/{override['id']}")
        assert (await client.get(path)).json()["enabled"] is True
        assert (await client.patch(path, json={"enabled": False})).status_code == 409
        for other in (f"{server}:sf-nothing", "srv_0:sf-record-delete"):
            answer = await client.delete(f"mcp/policies/{other}", params={"reason": "x"})
            assert answer.status_code == 404
    async with world.client(world.foreign) as client:
        assert (await client.get(path)).status_code == 404


async def test_tools_say_what_covers_them_and_a_scan_what_nothing_covers(world: World) -> None:
    world.upstream.tools = [a_tool("soqlQuery"), a_tool("crm__deleteRecord"), a_tool("weather")]
    async with world.client() as client:
        server = (await _made(client, server_url="https://sf.example.com/mcp"))["id"]
        rule = (await client.post("mcp/policies", json={"action": "LOG_ONLY"})).json()["id"]
        scan = (await client.post(f"mcp/servers/{server}/scan")).json()
        assert scan["uncovered"] == ["weather"]
        items = (await client.get(f"mcp/servers/{server}/tools")).json()["items"]
        assert {item["name"]: item["covered_by"] for item in items} == {
            "soqlQuery": ["sf-crm-read", rule],
            "crm__deleteRecord": ["sf-record-delete", rule],
            "weather": [rule],
        }


async def test_a_templates_next_version_is_shown_and_then_accepted(
    world: World, tmp_path: Path
) -> None:
    folder = a_template(tmp_path / "templates")
    _offer(world, tmp_path / "templates")
    async with world.client() as client:
        server = await _made(client, template="acme", params={"limit": 9})
        path = f"mcp/servers/{server['id']}"
        for change in ({"server_url": "https://acme.example.com/mcp"}, {"status": "ACTIVE"}):
            assert (await client.patch(path, json=change)).status_code == 200
        assert _status_for_calls(world, server) == "ACTIVE"
        document = yaml.safe_load((folder / "template.yaml").read_text())
        document["version"] = "2.0.0"
        document["policies"][0]["action"] = "LOG_ONLY"
        properties = document["parameters"]["properties"]
        properties.pop("own_domains")
        properties["pages"] = {"type": "integer", "default": 3}
        (folder / "template.yaml").write_text(yaml.safe_dump(document))
        shown = (await client.get(path)).json()
        assert (shown["template_version"], shown["available_version"]) == ("1.0.0", "2.0.0")
        other = {"action": "DENY", "reason": "any change has the project read again"}
        assert (await client.post("mcp/policies", json=other)).status_code == 201
        assert _status_for_calls(world, server) == "PENDING_APPROVAL"
        assert shown["params"] == {"limit": 9, "own_domains": []}
        changes = {(c["kind"], c["id"]): c for c in shown["template_changes"]}
        assert changes.keys() == {
            ("policy", "acme-writes"),
            ("parameter", "own_domains"),
            ("parameter", "pages"),
        }
        policy = changes["policy", "acme-writes"]
        assert (policy["before"]["action"], policy["after"]["action"]) == ("DENY", "LOG_ONLY")
        assert changes["parameter", "own_domains"]["after"] is None
        assert changes["parameter", "pages"]["before"] is None
        other = {"version": "1.5.0", "reason": "upgrade"}
        assert (await client.post(f"{path}/template-version", json=other)).status_code == 409
        asked = {"version": "2.0.0", "reason": "upgrade"}
        accepted = (await client.post(f"{path}/template-version", json=asked)).json()
        assert (accepted["template_version"], accepted["template_changes"]) == ("2.0.0", [])
        assert accepted["params"] == {"limit": 9, "pages": 3}
        assert _status_for_calls(world, server) == "ACTIVE"
        assert (await client.post(f"{path}/template-version", json=asked)).status_code == 409
        [event, *_] = (await client.get("traces", params={"kind": "event"})).json()["items"]
        [record] = (await client.get(f"traces/{event['id']}")).json()["records"]
        assert record["record"]["event"] == "server.template_accepted"


def _status_for_calls(world: World, server: Mapping[str, Any]) -> str:
    projects = world.state.directory.projects()
    [found] = [v.servers[ServerId(server["id"])] for v in projects if server["id"] in v.servers]
    return found.status


async def test_nothing_is_made_from_a_template_with_a_fault(world: World, tmp_path: Path) -> None:
    folder = a_template(tmp_path / "templates")
    _offer(world, tmp_path / "templates")
    async with world.client() as client:
        server = (await _made(client, template="acme"))["id"]
        (folder / "template.yaml").write_text("title: [")
        wrong = _faults(await client.post("mcp/servers/from-template", json={"template": "acme"}))
        assert "has faults" in wrong["template"]
        path = f"mcp/servers/{server}"
        assert (await client.patch(path, json={"params": {"limit": 1}})).status_code == 409
        assert (await client.get(path)).json()["available_version"] is None
    async with world.client(Role.AUDITOR) as client:
        assert (await client.get("mcp/templates")).status_code == 403
