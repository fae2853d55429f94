"""Extensions: made, listed with what they did, rotated, removed; and what their keys may do."""

import base64
import hmac
from datetime import datetime
from typing import Any

import httpx
import orjson
import pytest

from gateway.values import Action, Role
from tests import places
from tests.api.world import World
from tests.extensions.events import an_event, records, sent

pytestmark = pytest.mark.anyio

NEW = {"name": "Copilot", "type": "copilot", "scopes": ["decide", "webhook:ingest"]}


async def made(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post("extensions", json=NEW | changes)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_its_secrets_are_shown_once_and_kept_as_hashes(world: World) -> None:
    async with world.client() as client:
        new = await made(client)
        listed = (await client.get("extensions")).text
        keys = (await client.get("keys")).json()["items"]
    assert new["key"].startswith("ext_")
    assert new["signing_secret"].startswith("whsec_")
    assert new["key"] not in listed
    assert new["signing_secret"] not in listed
    assert new["id"] not in [key["id"] for key in keys]
    stored = places.stored(world.state.data_dir)
    assert new["key"].encode() not in stored
    assert base64.b64decode(new["signing_secret"][6:]) not in stored


async def test_without_a_server_it_gets_one_with_its_platforms_policies(world: World) -> None:
    async with world.client() as client:
        new = await made(client)
        server = (await client.get(f"mcp/servers/{new['server_id']}")).json()
    assert (server["connector_type"], server["is_proxied"]) == ("copilot", False)


async def test_the_list_tells_when_it_was_seen_what_it_sent_and_what_failed(world: World) -> None:
    async with world.client() as client:
        new = await made(client, type="custom")
        assert (await sent(world, new["key"], an_event("e-1"))).status_code == 200
        assert (await sent(world, new["key"], {"event_type": 7})).status_code == 400
        world.state.writer.change_now(lambda _: None)
        listed = (await client.get("extensions")).json()["items"]
    mine = next(one for one in listed if one["id"] == new["id"])
    assert (mine["events"], mine["errors"]) == (1, 1)
    assert mine["last_seen"] is not None
    assert mine["last_error"] == "The request has faults; see details."


async def test_a_rotated_key_and_a_removed_extensions_key_are_dead_at_once(world: World) -> None:
    async with world.client() as client:
        new = await made(client, type="custom")
        again = (await client.post(f"extensions/{new['id']}/rotate")).json()
        assert (await sent(world, new["key"], an_event())).status_code == 401
        assert (await sent(world, again["key"], an_event())).status_code == 200
        gone = (await client.delete(f"extensions/{new['id']}")).json()
        assert gone["state"] == "REVOKED"
        assert (await sent(world, again["key"], an_event())).status_code == 401
        assert (await client.post(f"extensions/{new['id']}/rotate")).status_code == 409
    events = [r for r in world.line.world.records("event") if r["subject"] == new["id"]]
    told = [record["event"] for record in events]
    assert told == ["extension.created", "extension.rotated", "extension.removed"]


async def test_scopes_bind(world: World) -> None:
    _, decides, _ = world.extension(name="d", scopes=["decide"])
    _, reports, _ = world.extension(name="r", scopes=["webhook:ingest"])
    report = an_event(mode="record")
    assert (await sent(world, decides, an_event())).status_code == 200
    assert (await sent(world, decides, report)).status_code == 403
    assert (await sent(world, reports, report)).status_code == 202
    assert (await sent(world, reports, an_event())).status_code == 403


async def test_an_extension_reads_its_own_traces_if_it_may(world: World) -> None:
    _, reads, _ = world.extension(name="r", scopes=["decide", "traces:read"])
    _, other, _ = world.extension(name="o", scopes=["decide"])
    mine = (await sent(world, reads, an_event())).json()["trace_id"]
    theirs = (await sent(world, other, an_event())).json()["trace_id"]
    async with world.client(reads) as client:
        listed = (await client.get("traces")).json()["items"]
        assert {one["trace_id"] for one in listed} == {mine}
        assert (await client.get(f"traces/{mine}")).status_code == 200
        assert (await client.get(f"traces/{theirs}")).status_code == 404
    async with world.client(other) as client:
        assert (await client.get("traces")).status_code == 403


def signed(secret: bytes, body: bytes, at: int, message: str = "msg_1") -> dict[str, str]:
    mac = hmac.digest(secret, f"{message}.{at}.".encode() + body, "sha256")
    return {
        "webhook-id": message,
        "webhook-timestamp": str(at),
        "webhook-signature": "v1,AAAA v1," + base64.b64encode(mac).decode(),
        "content-type": "application/json",
    }


async def test_a_platform_that_signs_needs_no_key_and_a_changed_body_is_refused(
    world: World,
) -> None:
    row, _, secret = world.extension(name="signs", require_signature=True)
    body = orjson.dumps(an_event())
    now = int(datetime.fromisoformat(world.state.clock.now()).timestamp())
    async with world.client(None) as client:

        async def status(content: bytes, headers: dict[str, str]) -> int:
            named = headers | {"x-extension-id": row.id}
            post = client.post("webhooks/ingest", content=content, headers=named)
            return (await post).status_code

        assert await status(body, signed(secret, body, now)) == 200
        assert await status(body + b" ", signed(secret, body, now)) == 401
        assert await status(body, signed(b"x" * 32, body, now)) == 401
        assert await status(body, signed(secret, body, now - 3600)) == 401


async def test_a_signed_message_that_comes_again_holds_the_same_events(world: World) -> None:
    row, _, secret = world.extension(name="signs", require_signature=True)
    now = int(datetime.fromisoformat(world.state.clock.now()).timestamp())
    nameless = {"event_type": "noted"}
    async with world.client(None) as client:
        for message, events in {"m1": an_event(None), "m2": [nameless, nameless]}.items():
            body = orjson.dumps(events)
            headers = signed(secret, body, now, message) | {"x-extension-id": row.id}
            first, again = [
                (await client.post("webhooks/ingest", content=body, headers=headers)).json()
                for _ in range(2)
            ]
            assert again == first
    assert first[0]["trace_id"] != first[1]["trace_id"]
    assert len(world.line.world.records("decision")) == 1
    assert len(world.line.world.records("report")) == 2


async def test_where_a_signature_is_required_the_key_alone_does_not_do(world: World) -> None:
    _, key, _ = world.extension(name="signs", require_signature=True)
    assert (await sent(world, key, an_event())).status_code == 401


async def test_an_extensions_rate_is_its_own(world: World) -> None:
    _, slow, _ = world.extension(name="slow", events_per_minute=6)
    _, other, _ = world.extension(name="other")
    assert (await sent(world, slow, an_event("1"))).status_code == 200
    late = await sent(world, slow, an_event("2"))
    assert (late.status_code, late.headers["Retry-After"]) == (429, "10")
    assert (await sent(world, other, an_event("1"))).status_code == 200


async def test_it_speaks_only_for_agents_on_its_list_and_those_made_under_it(world: World) -> None:
    async with world.client() as client:
        ids = [
            (await client.post("agents", json={"name": n, "owner": "o"})).json()["id"]
            for n in ("a", "b", "c")
        ]
    _, key, _ = world.extension(name="two", agents=ids[:2])
    assert (await sent(world, key, an_event("1", agent_id=ids[0]))).status_code == 200
    assert (await sent(world, key, an_event("2", agent_id=ids[2]))).status_code == 403
    first = await sent(world, key, an_event("3", external_agent_id="bot-7"))
    again = await sent(world, key, an_event("4", external_agent_id="bot-7"))
    agents = {records(world, one.json()["trace_id"])[0]["agent"] for one in (first, again)}
    assert len(agents) == 1
    async with world.client() as client:
        made_one = (await client.get(f"agents/{agents.pop()}")).json()
    assert made_one["name"] == "two/bot-7"


async def test_the_only_agent_it_could_mean_is_no_assertion(world: World) -> None:
    async with world.client() as client:
        one = (await client.post("agents", json={"name": "a", "owner": "o"})).json()["id"]
    _, key, _ = world.extension(name="one", agents=[one])
    known = records(world, (await sent(world, key, an_event("1"))).json()["trace_id"])[0]
    assert (known["agent"], "asserted" in known) == (one, False)
    named = await sent(world, key, an_event("2", external_agent_id="x"))
    assert records(world, named.json()["trace_id"])[0]["asserted"] is True


async def test_a_paused_agent_is_stopped_and_others_of_the_extension_are_not(world: World) -> None:
    _, key, _ = world.extension(name="p")
    first = await sent(world, key, an_event("1", external_agent_id="x"))
    agent = records(world, first.json()["trace_id"])[0]["agent"]
    async with world.client() as client:
        await client.post(f"agents/{agent}/pause")
    stopped = await sent(world, key, an_event("2", external_agent_id="x"))
    assert (stopped.status_code, stopped.json()["reason_code"]) == (403, "agent_paused")
    assert (await sent(world, key, an_event("3", external_agent_id="y"))).status_code == 200


async def test_a_blocked_server_closes_this_door_too_and_a_waiting_one_does_not(
    world: World,
) -> None:
    row, key, _ = world.extension(name="s")
    assert (await sent(world, key, an_event("1"))).status_code == 200
    async with world.client() as client:
        await client.patch(f"mcp/servers/{row.server_id}", json={"status": "BLOCKED"})
    answer = await sent(world, key, an_event("2"))
    assert (answer.status_code, answer.json()["reason_code"]) == (403, "server_blocked")


async def test_an_extensions_key_opens_no_other_door(world: World) -> None:
    _, key, _ = world.extension(name="s")
    async with world.client(key) as client:
        assert (await client.get("agents")).status_code == 403
        assert (await client.post("mcp/decide", json={})).status_code == 403
    world.line.policy.action = Action.ALLOW
    assert world.state.directory.key_of(key).role is Role.EXTENSION  # type: ignore[union-attr]
