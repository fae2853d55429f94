"""Events as senders write them, and what came of them, for the tests."""

from typing import Any

import httpx

from tests.api.world import World


def an_event(event_id: str | None = "e-1", **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": event_id,
        "event_type": "tool_call.requested",
        "mode": "decide",
        "tool": {"name": "getRecord", "arguments": {"id": "001"}},
    }
    return {k: v for k, v in {**event, **changes}.items() if v is not None}


async def sent(world: World, key: str, event: Any, **headers: str) -> httpx.Response:
    async with world.client(key) as client:
        return await client.post("webhooks/ingest", json=event, headers=headers)


def records(world: World, trace_id: str) -> list[dict[str, Any]]:
    """The call's records, once all that was queued is on disk."""
    world.line.world.state.writer.change_now(lambda _: None)
    return world.line.world.records(call_id=trace_id)
