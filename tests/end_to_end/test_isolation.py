"""Sessions and events of one key in another's hands: answered as what the server has forgotten."""

import re
from typing import Any

import httpx
import pytest
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage

from gateway.demo.instructions import Demo
from tests.end_to_end.test_proxy_sdk import World, behind_the_gateway, demo, world

__all__ = ["demo", "world"]
pytestmark = pytest.mark.anyio

CALL = {
    "jsonrpc": "2.0",
    "id": 3,
    "method": "tools/call",
    "params": {"name": "steps", "arguments": {"count": 2}, "_meta": {"progressToken": 1}},
}
ACCEPT = "application/json, text/event-stream"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
    },
}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}


def client(key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}", "Accept": ACCEPT}
    return httpx.AsyncClient(headers=headers, timeout=30, trust_env=False)


async def begin(world: World, http: httpx.AsyncClient) -> str:
    answer = await http.post(world.url, json=INITIALIZE)
    session = answer.headers["mcp-session-id"]
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await http.post(world.url, json=told, headers={"mcp-session-id": session})
    return str(session)


def answered(response: httpx.Response) -> tuple[int, Any]:
    return response.status_code, response.json()


async def test_a_foreign_session_is_answered_as_an_ended_one(world: World) -> None:
    body = {"role": "project", "name": "another", "owner": "tests"}
    other_key = (await world.api("POST", "/keys", body))["key"]
    async with client(world.demo.project_key) as mine, client(other_key) as other:
        session = {"mcp-session-id": await begin(world, mine)}
        assert (await mine.post(world.url, json=LIST, headers=session)).status_code == 200

        foreign = [
            answered(await other.post(world.url, json=LIST, headers=session)),
            answered(await other.delete(world.url, headers=session)),
        ]
        async with other.stream("GET", world.url, headers=session) as stream:
            foreign.append((stream.status_code, await stream.aread() and stream.json()))
        assert (await mine.post(world.url, json=LIST, headers=session)).status_code == 200

        assert (await mine.delete(world.url, headers=session)).is_success
        ended = [
            answered(await mine.post(world.url, json=LIST, headers=session)),
            answered(await mine.delete(world.url, headers=session)),
            answered(await mine.get(world.url, headers=session)),
        ]
    assert [status for status, _ in foreign] == [404, 404, 404]
    assert foreign == ended


async def test_the_servers_own_name_of_a_session_opens_nothing(world: World) -> None:
    async with client(world.demo.project_key) as mine:
        await begin(world, mine)
        manager = world.server.session_manager
        names = list(manager._server_instances)
        assert names
        for name in names:
            answer = await mine.post(world.url, json=LIST, headers={"mcp-session-id": name})
            assert answer.status_code == 404


class Store(EventStore):
    """Every event of every stream, and which ones somebody asked to go on from."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JSONRPCMessage | None]] = []
        self.asked: list[str] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.events.append((stream_id, message))
        return f"event-{len(self.events) - 1}"

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        self.asked.append(last_event_id)
        if not re.fullmatch(r"event-\d+", last_event_id):
            return None
        place = int(last_event_id.removeprefix("event-"))
        stream = self.events[place][0]
        for number, (stream_id, message) in enumerate(self.events):
            if number > place and stream_id == stream and message is not None:
                await send_callback(EventMessage(message, f"event-{number}"))
        return stream


async def test_a_stream_is_resumed_by_whom_it_was_for_and_by_nobody_else(demo: Demo) -> None:
    store = Store()
    async with behind_the_gateway(demo, "resumed", event_store=store) as world:
        body = {"role": "project", "name": "resumes", "owner": "tests"}
        other_key = (await world.api("POST", "/keys", body))["key"]
        async with client(demo.project_key) as mine, client(other_key) as other:
            session = {"mcp-session-id": await begin(world, mine)}
            said = (await mine.post(world.url, json=CALL, headers=session)).text
            first = {"last-event-id": re.findall(r"^id: (\S+)", said, re.M)[0]}
            assert "event-" not in said

            async with mine.stream("GET", world.url, headers={**session, **first}) as stream:
                again = ""
                async for line in stream.aiter_lines():
                    again += line
                    if '"result"' in line:
                        break
            assert "step 2" in again
            asked_by_me = len(store.asked)

            theirs = {"mcp-session-id": await begin(world, other)}
            async with other.stream("GET", world.url, headers={**theirs, **first}) as stream:
                assert stream.status_code == 200
    assert all(name.startswith("event-") for name in store.asked[:asked_by_me])
    assert len(store.asked) == asked_by_me + 1
    assert not store.asked[-1].startswith("event-")
