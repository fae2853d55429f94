"""What platforms report, in their own shapes: recorded, joined to an agent, never refused."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.extensions import mappers
from gateway.values import Action
from tests.api.world import World
from tests.extensions.events import records

pytestmark = pytest.mark.anyio

SAMPLES = Path(__file__).parent / "samples"
EXPECTED: dict[str, list[tuple[str, str | None]]] = {
    "graph": [
        ("graph.aiInteraction.created", None),
        ("graph.aiInteraction.created", None),
        ("graph.lifecycle.reauthorizationRequired", None),
    ],
    "graph-fetched": [("prompt_sent", None), ("response_sent", None)],
    "purview": [
        ("purview.CopilotInteraction", None),
        ("purview.CopilotInteraction", None),
        ("purview.CopilotInteraction", None),
        ("purview.content_available", None),
    ],
    "salesforce": [
        ("tool_call.completed", "deleteSobjectRecord"),
        ("salesforce.Low_Ink__e", None),
        ("tool_call.completed", "Update_Case"),
        ("tool_call.completed", "Update_Case"),
        ("salesforce.BulkApiResultEvent", None),
    ],
    "servicenow": [
        ("tool_call.completed", "update_incident"),
        ("tool_call.failed", "delete_incident"),
        ("servicenow.sn_aia_tools_execution", None),
        ("tool_call.completed", "list_incidents"),
        ("servicenow.sn_aia_message", None),
    ],
}
"""What becomes of each document of a sample; `samples/README.md` names the pages they are from."""


class Platform:
    def __init__(self, world: World, kind: str) -> None:
        self.world = world
        self.kind = kind
        self.door = kind.partition("-")[0]
        self.row, self.key, _ = world.extension(name=kind, scopes=["webhook:ingest"])

    def sample(self) -> Any:
        return json.loads((SAMPLES / f"{self.kind}.json").read_text().replace("KEY", self.key))

    async def post(self, body: Any, key: str | None = None, **headers: str) -> httpx.Response:
        async with self.world.client(key) as client:
            path = f"extensions/{self.row.id}/{self.door}"
            return await client.post(path, json=body, headers=headers)


@pytest.mark.parametrize("kind", EXPECTED)
async def test_a_platforms_own_documents_become_events_and_stay_whole(
    world: World, kind: str
) -> None:
    world.line.policy.action = Action.DENY
    platform = Platform(world, kind)
    answer = await platform.post(platform.sample(), platform.key)
    assert answer.status_code == 202, answer.text
    said = answer.json()
    assert (said["taken"], said["errors"]) == (len(EXPECTED[kind]), 0), said
    found = []
    for one in said["items"]:
        first = records(world, one["trace_id"])[0]
        found.append((first["event_type"], first["tool"]))
        assert (first["enforceable"], first["attested"]) == (False, False)
        assert one["enforceable"] is False
    assert found == EXPECTED[kind]
    again = await platform.post(platform.sample(), platform.key)
    assert [i["trace_id"] for i in again.json()["items"]] == [i["trace_id"] for i in said["items"]]
    stored = world.line.world.rows("SELECT COUNT(*) FROM trace WHERE kind IN ('report','decision')")
    assert stored == [(len(EXPECTED[kind]),)]


async def test_a_reported_tool_has_its_agent_its_arguments_and_what_would_have_been(
    world: World,
) -> None:
    world.line.policy.action = Action.DENY
    platform = Platform(world, "salesforce")
    said = (await platform.post(platform.sample(), platform.key)).json()
    decided, outcome = records(world, said["items"][0]["trace_id"])
    assert (decided["would"], decided["external_agent"]) == ("WOULD_BLOCK", "Service_Agent")
    assert (outcome["fate"], outcome["status"], outcome["said"]) == ("reported", "ok", "Success")
    assert said["items"][0]["decision"] == "BLOCKED"


def test_what_platforms_say_of_a_call_is_read_from_where_they_say_it() -> None:
    def sample(name: str) -> Any:
        return json.loads((SAMPLES / f"{name}.json").read_text())

    first, shown, running, *_ = mappers.servicenow(sample("servicenow"))
    assert first["tool"] == {"name": "update_incident", "arguments": {"incident_id": "INC001"}}
    assert (first["external_agent_id"], first["occurred_at"]) == (
        "Incident agent",
        "2026-03-19T10:00:02Z",
    )
    assert first["session_id"] == "78f347b72f198310f824ac1bcfa4e3bd"
    assert shown["tool"] == {"name": "delete_incident", "arguments": {"text": "not JSON"}}
    assert "tool" not in running

    _, _, row, queried, _ = mappers.salesforce(sample("salesforce"))
    assert row["tool"] == {"name": "Update_Case", "id": "Close_Case_Action", "arguments": {}}
    assert (row["occurred_at"], row["outcome"]) == ("2026-03-19T10:00:00.000Z", {"status": ""})
    assert (queried["occurred_at"], queried["session_id"]) == ("2026-03-19T10:00:02.000Z", "b-1")
    (logged,) = mappers.salesforce({"ACTION_NAME": "A", "TIMESTAMP": "20260319100000.000"})
    assert logged["occurred_at"] == "2026-03-19T10:00:00.000Z"

    users = [event.get("user") for event in mappers.purview(sample("purview"))]
    assert users == [{"id": "ann@example.com"}, {"id": "bob@example.com"}, users[0], None]
    prompt, answer = mappers.graph(sample("graph-fetched"))
    assert prompt["user"] == {"id": "48d31887-5fad-4d73-a9f5-3c356e68a038"}
    assert prompt["session_id"] == answer["session_id"] == "19:abc@thread.v2"


async def test_graph_shakes_hands_and_is_known_by_its_client_state(world: World) -> None:
    platform = Platform(world, "graph")
    async with world.client(None) as client:
        path = f"extensions/{platform.row.id}/graph"
        greeting = await client.post(path, params={"validationToken": "Validation: a b<c>"})
    assert greeting.status_code == 200
    assert greeting.text == "Validation: a b<c>"
    assert greeting.headers["content-type"].startswith("text/plain")
    assert (await platform.post(platform.sample())).status_code == 202
    wrong = platform.sample()
    wrong["value"][1]["clientState"] = "ext_other"
    assert (await platform.post(wrong)).status_code == 401
    assert (await platform.post({"value": []})).status_code == 401
    text = json.dumps(world.line.world.records())
    assert platform.key not in text


@pytest.mark.parametrize("value", [3, 1.5, True, {}, [{"clientState": []}], [{"clientState": {}}]])
async def test_a_stranger_is_nobody_whatever_stands_where_graphs_state_should(
    world: World, value: Any
) -> None:
    answer = await Platform(world, "graph").post({"value": value})
    assert answer.status_code == 401


async def test_purviews_feed_shakes_hands_and_is_known_by_its_auth_id(world: World) -> None:
    platform = Platform(world, "purview")
    known = {"Webhook-AuthID": platform.key}
    hello = await platform.post({"validationCode": "abc"}, **known)
    assert hello.status_code == 200
    assert (await platform.post(platform.sample(), **known)).status_code == 202
    stranger = {"Webhook-AuthID": "ext_other"}
    assert (await platform.post({"validationCode": "abc"}, **stranger)).status_code == 401


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("body", [{}, [], [1, "x", None], {"value": 3}, [{"record": 1}]])
async def test_what_nobody_foresaw_is_taken_or_said_to_be_wrong(
    world: World, kind: str, body: Any
) -> None:
    platform = Platform(world, kind)
    answer = await platform.post(body, platform.key)
    assert answer.status_code == 202, answer.text


async def test_another_extensions_door_stays_closed(world: World) -> None:
    one, other = Platform(world, "salesforce"), Platform(world, "servicenow")
    assert (await one.post(one.sample(), other.key)).status_code == 404
