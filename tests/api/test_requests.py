"""What the API makes of a request before and after its handler: faults, limits, repeats."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import select, update

from gateway.store import tables
from gateway.values import Role
from tests import places
from tests.api.world import World

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


def _fields(answer: Any) -> set[str]:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "validation"
    assert error["request_id"] == answer.headers["X-Request-Id"]
    return {detail["field"] for detail in error["details"]}


async def test_every_fault_is_told_at_once_by_field(world: World) -> None:
    body = {
        "name": "x" * 129,
        "server_url": "ftp://example.com",
        "auth": {"type": "header", "name": "Content-Length", "value": "a\r\nb"},
        "is_proxied": "yes",
        "colour": "red",
    }
    async with world.client() as client:
        answer = await client.post("mcp/servers", json=body)
    assert _fields(answer) == {
        "name",
        "server_url",
        "auth.header.name",
        "auth.header.value",
        "is_proxied",
        "colour",
    }


async def test_references_are_checked_all_at_once(world: World) -> None:
    body = {
        "action": "DENY",
        "agent_id": "agt_0",
        "server_id": "srv_0",
        "mcp_tool_id": "tol_0",
        "tool_pattern": "delete_*",
        "expires_at": "2001-01-01T00:00:00Z",
    }
    async with world.client() as client:
        answer = await client.post("mcp/policies", json=body)
    assert _fields(answer) == set(body) - {"action"}


async def test_a_faulty_secret_is_not_repeated_to_its_sender(world: World) -> None:
    secret = "s3cret\r\nX: y"
    body = {
        "name": "crm",
        "server_url": "https://crm.example.com/mcp",
        "auth": {"type": "bearer", "token": secret},
    }
    async with world.client() as client:
        answer = await client.post("mcp/servers", json=body)
    assert _fields(answer) == {"auth.bearer.token"}
    assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"name":"a","owner":"o","name":"b"}', 400),
        (b'{"name":"a","owner":"o","Name":"b"}', 400),
        (b'[{"name":"a","owner":"o"}]', 400),
        (b'{"name":"a","owner":"o"', 400),
        (b'{"name":"a","owner":"\\ud800"}', 400),
        (b'\xef\xbb\xbf{"name":"a","owner":"o"}', 400),
        (b"", 400),
        (b'{"name":"a","owner":"' + b"o" * (4 * 1024 * 1024) + b'"}', 413),
    ],
    ids=["double", "folded", "batch", "cut", "surrogate", "bom", "empty", "large"],
)
async def test_a_body_that_is_not_strict_json_is_refused(
    world: World, raw: bytes, status: int
) -> None:
    before = world.state.log.size
    async with world.client() as client:
        answer = await client.post("agents", content=raw, headers=JSON)
    assert answer.status_code == status
    assert world.state.log.size == before


async def test_a_body_of_another_type_is_refused(world: World) -> None:
    async with world.client() as client:
        answer = await client.post("agents", content=b"{}", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415
        answer = await client.post("agents/x/pause", json={"reason": "x"})
        assert answer.status_code == 400


async def test_query_faults_are_told_by_field(world: World) -> None:
    async with world.client() as client:
        assert _fields(await client.get("agents?limit=201")) == {"limit"}
        assert _fields(await client.get("agents?limit=1&limit=2")) == {"limit"}
        assert _fields(await client.get("agents?cursor=bm9uZQ&colour=red")) == {"colour"}
        assert _fields(await client.get("agents?cursor=bm9uZQ")) == {"cursor"}
        assert _fields(await client.get("traces?from=yesterday&risk=HUGE")) == {"from", "risk"}
        assert (await client.get("agents/agt_0?limit=1")).status_code == 400


async def test_unknown_paths_and_methods_answer_in_json(world: World) -> None:
    async with world.client() as client:
        for path, method, status in (
            ("nowhere", "GET", 404),
            ("agents", "PUT", 405),
            ("https://gateway.example.com/.well-known/oauth-protected-resource/x", "GET", 404),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == status
            assert answer.json()["error"]["request_id"].startswith("req_")
        allowed = (await client.put("agents")).headers["Allow"]
    assert {"GET", "POST"} <= set(allowed.split(", "))


async def test_lists_are_paged_without_gaps(world: World) -> None:
    async with world.client() as client:
        for number in range(7):
            await client.post("agents", json={"name": f"agent {number}", "owner": "o"})
        for path in ("agents", "traces"):
            whole = (await client.get(path)).json()
            assert whole["next_cursor"] is None
            seen, cursor = [], ""
            while cursor is not None:
                page = (await client.get(f"{path}?limit=3{cursor}")).json()
                seen += page["items"]
                cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
            assert seen == whole["items"]


async def test_a_repeated_write_is_answered_as_before_and_done_once(world: World) -> None:
    body = {"role": "auditor", "name": "k", "owner": "o"}
    once = {"Idempotency-Key": "one"}
    async with world.client() as client:
        first = await client.post("keys", json=body, headers=once)
        again = await client.post("keys", json=body, headers=once)
        assert (again.status_code, again.content) == (201, first.content)
        count = len((await client.get("keys")).json()["items"])
        other = await client.post("keys", json=body | {"name": "k2"}, headers=once)
        assert other.status_code == 422
        assert len((await client.get("keys")).json()["items"]) == count
        third = await client.post("keys", json=body, headers={"Idempotency-Key": "two"})
        assert third.json()["key"] != first.json()["key"]
        assert (await client.post("keys", json=body, headers={"Idempotency-Key": ""})).is_error


async def test_a_write_with_another_query_is_another_write(world: World) -> None:
    async with world.client() as client:
        made = await client.post("mcp/servers/from-template", json={"template": "salesforce"})
        path = f"mcp/policies/{made.json()['id']}:sf-record-delete"
        once = {"Idempotency-Key": "one"}
        statuses = [
            (await client.delete(path, params={"reason": reason}, headers=once)).status_code
            for reason in ("a", "a", "b")
        ]
    assert statuses == [204, 204, 422]


async def test_the_same_write_twenty_times_at_once_is_done_once(world: World) -> None:
    async with world.client() as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    "agents", json={"name": "a", "owner": "o"}, headers={"Idempotency-Key": "1"}
                )
                for _ in range(20)
            )
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_refused_write_is_not_remembered(world: World) -> None:
    async with world.client() as client:
        await client.post("agents", json={"name": "a", "owner": "o"})
        once = {"Idempotency-Key": "one"}
        body = {"name": "a", "owner": "o"}
        assert (await client.post("agents", json=body, headers=once)).status_code == 409
        assert (await client.post("agents", json=body, headers=once)).status_code == 409


async def test_a_secret_is_shown_once_and_kept_nowhere(world: World) -> None:
    credential = "upstream-credential-0123456789"
    async with world.client() as client:
        made = await client.post(
            "keys",
            json={"role": "auditor", "name": "k", "owner": "o"},
            headers={"Idempotency-Key": "one"},
        )
        rotated = await client.post(f"keys/{made.json()['id']}/rotate")
        server = await client.post(
            "mcp/servers",
            json={
                "name": "crm",
                "server_url": "https://crm.example.com/mcp",
                "auth": {"type": "basic", "username": "user", "password": credential},
            },
        )
        secrets = [made.json()["key"], rotated.json()["key"], credential]
        assert secrets[0].startswith("gwv_")
        assert secrets[0] != secrets[1]
        shown = [server.text]
        for path in ("keys", "mcp/servers", f"mcp/servers/{server.json()['id']}", "traces"):
            shown.append((await client.get(path)).text)
        for item in (await client.get("traces")).json()["items"]:
            shown.append((await client.get(f"traces/{item['id']}")).text)
    for secret in secrets:
        assert not any(secret in text for text in shown)
    world.state.writer.change_now(lambda c: c.execute(select(1)).scalar())
    raw = places.stored(world.state.data_dir)
    assert not any(secret.encode() in raw for secret in secrets)


async def test_a_rotated_key_ends_the_old_secret_at_once(world: World) -> None:
    key, secret = world.key(Role.AUDITOR)
    async with world.client() as client, world.client(secret) as old:
        assert (await old.get("agents")).status_code == 200
        fresh = (await client.post(f"keys/{key.id}/rotate")).json()["key"]
        assert (await old.get("agents")).status_code == 401
        async with world.client(fresh) as new:
            assert (await new.get("agents")).status_code == 200
            assert (await client.delete(f"keys/{key.id}")).json()["state"] == "REVOKED"
            assert (await new.get("agents")).status_code == 401
        assert (await client.delete(f"keys/{key.id}")).status_code == 409
        assert (await client.post(f"keys/{key.id}/rotate")).status_code == 409


async def test_a_key_takes_what_waits_for_it_along_when_it_is_revoked(world: World) -> None:
    (key, asks), (_, other) = world.key(), world.key()
    approvals = [world.approval(secret) for secret in (asks, other)]
    async with world.client() as client:
        await client.delete(f"keys/{key.id}")
        states = [(await client.get(f"approvals/{one}")).json()["status"] for one in approvals]
    assert states == ["DENIED", "PENDING"]


async def test_the_last_admin_key_cannot_be_revoked(world: World) -> None:
    async with world.client() as client:
        items = (await client.get("keys")).json()["items"]
        admin = next(item["id"] for item in items if item["role"] == "admin")
        assert (await client.delete(f"keys/{admin}")).status_code == 409
        world.key(Role.ADMIN)
        assert (await client.delete(f"keys/{admin}")).status_code == 200


async def test_every_change_is_an_event_with_who_and_what(world: World) -> None:
    async with world.client() as client:
        made = (await client.post("agents", json={"name": "bot", "owner": "Alex"})).json()["id"]
        await client.patch(f"agents/{made}", json={"owner": "Sam"})
        await client.patch(f"agents/{made}", json={})
        page = (await client.get("traces?kind=event&limit=2")).json()["items"]
        assert [item["agent_id"] for item in page] == [made, made]
        [event] = (await client.get(f"traces/{page[0]['id']}")).json()["records"]
    assert event["record"]["event"] == "agent.changed"
    assert event["record"]["subject"] == made
    values = {name: payload["value"] for name, payload in event["payloads"].items()}
    assert values == {"by": "Alex", "before": {"owner": "Alex"}, "after": {"owner": "Sam"}}
    assert "Sam" not in str(event["record"])


async def test_a_database_that_cannot_be_written_answers_503(world: World) -> None:
    def drop(connection: Any) -> None:
        connection.exec_driver_sql("ALTER TABLE agents RENAME TO lost")

    world.state.writer.change_now(drop)
    async with world.client() as client:
        for answer in (
            await client.post("agents", json={"name": "bot", "owner": "Alex"}),
            await client.get("agents"),
        ):
            assert answer.status_code == 503
            assert "lost" not in answer.text
            assert "SELECT" not in answer.text


async def test_a_defect_answers_500_without_its_cause(world: World) -> None:
    async def defect(_key: object, _question: object) -> dict[str, Any]:
        raise ZeroDivisionError("the cause")

    object.__setattr__(world.context, "decide", defect)
    async with world.client() as client:
        server = await client.post(
            "mcp/servers", json={"name": "crm", "server_url": "https://crm.example.com/mcp"}
        )
        body = {"server_id": server.json()["id"], "tool": {"name": "t"}}
        answer = await client.post("mcp/decide", json=body)
    assert answer.status_code == 500
    assert "cause" not in answer.text


async def test_a_key_that_asks_too_often_is_told_how_long_to_wait(world: World) -> None:
    world.upstream.wait = 1.2
    async with world.client() as client:
        answer = await client.get("agents")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")


async def test_an_answer_that_does_not_fit_is_a_defect_and_nobody_elses_fault(
    world: World,
) -> None:
    async def misshapen(_key: object, _question: object) -> dict[str, Any]:
        return {"action": "PERHAPS"}

    object.__setattr__(world.context, "decide", misshapen)
    async with world.client() as client:
        server = await client.post(
            "mcp/servers", json={"name": "crm", "server_url": "https://crm.example.com/mcp"}
        )
        body = {"server_id": server.json()["id"], "tool": {"name": "t"}}
        answer = await client.post("mcp/decide", json=body)
    assert answer.status_code == 500
    assert "PERHAPS" not in answer.text


@pytest.mark.parametrize("change", [{"state": "REVOKED"}, {"secret_sha256": b"rotated"}])
async def test_a_key_that_ended_while_its_request_was_read_changes_nothing(
    world: World, change: dict[str, Any]
) -> None:
    key, secret = world.key(Role.ADMIN)
    # As if the commit came after the look into memory: the directory is not told.
    world.state.writer.change_now(
        lambda c: (
            c.execute(
                update(tables.keys).where(tables.keys.c.id == key.id).values(**change)
            ).rowcount
        )
    )
    async with world.client(secret) as client, world.client() as admin:
        answer = await client.post("agents", json={"name": "a", "owner": "o"})
        assert answer.status_code == 401
        assert (await admin.get("agents")).json()["items"] == []
