"""Old records over the API, and what it says when the storage has lost them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway.cold.archive import Archive
from gateway.cold.objects import Folder
from gateway.cold.reading import ColdStore
from gateway.data_dir.state import State
from gateway.ids import new_id
from gateway.trace.record import Draft, Field
from gateway.values import Role
from tests.api.world import World, a_world

pytestmark = pytest.mark.anyio

CALLS: list[str] = []
"""Of the world of this test."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """600 records of a project, two tiles of them cold."""
    (tmp_path / "cold").mkdir()
    store = ColdStore(Folder(tmp_path / "cold"))
    CALLS.clear()
    with a_world(tmp_path / "data", cold=store) as made:
        state = made.state
        for start in range(0, 600, 50):
            drafts = [_draft(made, n) for n in range(start, start + 50)]
            state.writer.change_now(partial(_append, state, drafts))
        state.writer.change_now(state.checkpoints.make)
        state.writer.change_now(
            partial(_append, state, [Draft("event", new_id("evt"), made.project_id)])
        )
        now = state.clock.now
        archive = Archive(store, state.writer, state.reader, now, 0, sinks=(), holder="gw_1")
        assert archive.round() == 512
        yield made


def _draft(world: World, n: int) -> Draft:
    call = new_id("trc")
    CALLS.append(call)
    payload = {"input": b'{"input":{"n":40}}'} if n == 40 else {}
    fields: dict[str, Field] = {"decision": "ALLOW", "tool": f"tool_{n % 3}"}
    return Draft("decision", call, world.project_id, fields, payload, call_id=call)


def _append(state: State, drafts: list[Draft], connection: Connection) -> int:
    return state.log.append(connection, drafts)[0].idx


async def ask(world: World, path: str, status: int = 200, **parameters: Any) -> Any:
    async with world.client(Role.ADMIN) as client:
        answer = await client.get(path, params=parameters)
        assert answer.status_code == status, answer.text
        return answer


async def listed(world: World, **parameters: Any) -> list[dict[str, Any]]:
    found, cursor = [], None
    while True:
        given = parameters | ({} if cursor is None else {"cursor": cursor})
        page = (await ask(world, "traces", **given)).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_lists_go_on_into_cold_storage_without_a_gap(world: World) -> None:
    found = await listed(world, kind="decision", limit=70)
    assert [one["idx"] for one in found] == [*range(found[0]["idx"], found[-1]["idx"] - 1, -1)]
    assert len(found) == 600
    some = await listed(world, tool="tool_1", limit=200)
    assert [one["idx"] for one in some] == [one["idx"] for one in found if one["tool"] == "tool_1"]
    searched = await listed(world, q="OOL_1", limit=200)
    assert searched == some
    first, end = found[500]["ts"], found[300]["ts"]
    between = await listed(world, **{"from": first, "to": end})
    assert between == [one for one in found if first <= one["ts"] < end] != []


async def test_a_cursor_that_nobody_gave_is_refused(world: World) -> None:
    for cursor in ("cold.", "cold.e30", "cold.WyJhIiwxXQ"):
        await ask(world, "traces", status=400, cursor=cursor)


async def test_an_export_and_a_proof_reach_back_to_the_first_record(world: World) -> None:
    first = (await listed(world, kind="decision", limit=200))[-1]
    lines = (await ask(world, "export", kind="decision")).text.splitlines()
    assert len(lines) == 600
    assert f'"id":"{first["id"]}"' in lines[0]
    whole = (await ask(world, f"traces/{first['trace_id']}")).json()
    proof = (await ask(world, f"traces/{first['trace_id']}/proof")).json()["proofs"][0]
    assert proof["leaf"] == whole["records"][0]["leaf"]
    assert proof["index"] == first["idx"]


async def test_what_is_kept_of_an_old_call_can_be_erased(world: World) -> None:
    call = CALLS[40]
    (record,) = (await ask(world, f"traces/{call}")).json()["records"]
    assert record["payloads"]["input"]["value"] == {"input": {"n": 40}}
    async with world.client(Role.ADMIN) as client:
        answer = await client.request(
            "DELETE", f"traces/{call}/payload", json={"reason": "asked for by the person"}
        )
    assert (answer.status_code, answer.json()["erased"]) == (200, 1)
    (record,) = (await ask(world, f"traces/{call}")).json()["records"]
    assert record["payloads"]["input"]["encoding"] == "erased"


async def test_a_lost_object_is_an_error_that_names_it(world: World, tmp_path: Path) -> None:
    (lost,) = (tmp_path / "cold").glob("*/trace/main/tile/entries/000")
    lost.unlink()
    told = (await ask(world, f"traces/{CALLS[0]}", status=503)).json()["error"]
    assert "tile/entries/000 is missing; put it back from a copy." in told["message"]
    await ask(world, "traces", limit=80)  # what is in the database is still shown
