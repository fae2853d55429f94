"""Sessions of one key in another's hands: answered as the server answers what it has forgotten."""

from typing import Any

import httpx
import pytest

from tests.end_to_end.test_proxy_sdk import World, demo, world

__all__ = ["demo", "world"]
pytestmark = pytest.mark.anyio

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
