"""Approvals: who may decide, once; how the agent that asked learns of it."""

import asyncio
import time

import pytest
from sqlalchemy import update

from gateway.store import tables
from gateway.values import Role
from tests.api.world import World

pytestmark = pytest.mark.anyio

WHY = {"reason": "looked at it"}


async def test_an_approver_sees_the_call_and_approves_it(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT])
    async with world.client(Role.APPROVER) as client:
        shown = (await client.get(f"approvals/{approval}")).json()
        assert shown["status"] == "PENDING"
        assert shown["call"] == {"name": "delete_record", "arguments": {"id": "001"}}
        answer = await client.post(f"approvals/{approval}/approve", json=WHY)
        assert answer.status_code == 200
        assert answer.json()["status"] == "APPROVED"
        assert answer.json()["decided_by"] == "Robin"
        for verb in ("approve", "deny"):
            assert (await client.post(f"approvals/{approval}/{verb}", json=WHY)).status_code == 409


async def test_approve_and_deny_at_the_same_moment_have_one_winner(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT])
    async with world.client(Role.APPROVER) as client:
        answers = await asyncio.gather(
            *(
                client.post(f"approvals/{approval}/{verb}", json=WHY)
                for verb in ("approve", "deny") * 10
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
        winner = next(answer.json()["status"] for answer in answers if answer.status_code == 200)
        assert (await client.get(f"approvals/{approval}")).json()["status"] == winner


async def test_approvals_of_a_new_project_wait_half_an_hour(world: World) -> None:
    async with world.client() as admin:
        project = (await admin.get("projects/current")).json()
        assert project["approval_ttl_seconds"] == 30 * 60


async def test_an_expired_approval_cannot_be_decided(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], seconds=60)
    world.state.clock.not_before("2099-01-01T00:00:00.000000Z")
    async with world.client(Role.APPROVER) as client:
        answer = await client.post(f"approvals/{approval}/approve", json=WHY)
        assert answer.status_code == 409
        assert "EXPIRED" in answer.json()["error"]["message"]
        assert (await client.get(f"approvals/{approval}")).json()["status"] == "EXPIRED"


async def test_lists_filter_by_what_an_approval_is_worth_now(world: World) -> None:
    secret = world.keys[Role.PROJECT]
    expected = {
        "PENDING": world.approval(secret),
        "APPROVED": world.approval(secret, state="APPROVED"),
        "CONSUMED": world.approval(secret, state="APPROVED", spent_by="trc_1", seconds=-1),
        "EXPIRED": world.approval(secret, state="APPROVED", seconds=-1),
        "DENIED": world.approval(secret, state="WITHDRAWN", seconds=-1),
    }
    async with world.client(Role.APPROVER) as client:
        for status, approval in expected.items():
            items = (await client.get(f"approvals?status={status}")).json()["items"]
            assert [(item["id"], item["status"]) for item in items] == [(approval, status)]
        assert len((await client.get("approvals")).json()["items"]) == len(expected)


@pytest.mark.parametrize("part", ["owns", "rotated", "made", "owns the agent"])
async def test_nobody_approves_what_they_ask_for_themselves(world: World, part: str) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "a", "owner": " ROBIN ".strip()})).json()
        bound = {"agent_id": agent["id"]} if part == "owns the agent" else {}
        key, secret = world.key(owner="robin" if part == "owns" else "Kim", **bound)
        column = {"rotated": "rotated_by", "made": "created_by"}.get(part)
        if column is not None:
            world.state.writer.change_now(
                lambda c: (
                    c.execute(
                        update(tables.keys)
                        .where(tables.keys.c.id == key.id)
                        .values({column: "Robin"})
                    ).rowcount
                )
            )
        approval = world.approval(secret)
        async with world.client(Role.APPROVER) as robin:
            answer = await robin.post(f"approvals/{approval}/approve", json=WHY)
            assert answer.status_code == 403
            assert (await robin.get(f"approvals/{approval}")).json()["status"] == "PENDING"
            # Denying one's own request harms nobody.
            assert (await robin.post(f"approvals/{approval}/deny", json=WHY)).status_code == 200


async def test_keys_approve_only_where_the_project_says_so(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT])
    async with world.client() as admin, world.client(Role.APPROVER) as client:
        await admin.patch("projects/current", json={"key_approvers": False})
        answer = await client.post(f"approvals/{approval}/approve", json=WHY)
        assert answer.status_code == 403
        await admin.patch("projects/current", json={"key_approvers": True})
        answer = await client.post(f"approvals/{approval}/approve", json=WHY)
        assert answer.status_code == 200


async def test_a_key_asks_only_about_its_own_calls(world: World) -> None:
    _, other = world.key()
    mine = world.approval(world.keys[Role.PROJECT], trace_id="trc_mine")
    theirs = world.approval(other, trace_id="trc_theirs")
    async with world.client(Role.PROJECT) as client:
        for query in ("trace_id=trc_mine", f"approval_id={mine}"):
            answer = (await client.get(f"approvals/status?{query}")).json()
            assert (answer["approval_id"], answer["effective_status"]) == (mine, "PENDING")
        for query in ("trace_id=trc_theirs", f"approval_id={theirs}", "approval_id=apr_0"):
            assert (await client.get(f"approvals/status?{query}")).status_code == 404
        for query in ("", f"?trace_id=trc_mine&approval_id={mine}", "?trace_id=trc_mine&wait=31"):
            assert (await client.get(f"approvals/status{query}")).status_code == 400


async def test_waiting_for_a_decision_ends_with_it(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT])
    async with world.client(Role.PROJECT) as client, world.client(Role.APPROVER) as approver:
        path = f"approvals/status?approval_id={approval}&wait=30"
        waiting = asyncio.create_task(client.get(path))
        began = time.monotonic()
        # A change that decides nothing must not end the wait.
        async with world.client() as admin:
            await admin.post("agents", json={"name": "a", "owner": "o"})
        assert not waiting.done()
        await approver.post(f"approvals/{approval}/deny", json=WHY)
        answer = (await waiting).json()
        assert answer["effective_status"] == "DENIED"
        assert answer["decided_by"] == "Robin"
        assert time.monotonic() - began < 20


async def test_waiting_ends_with_the_time_that_was_asked_for(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT])
    async with world.client(Role.PROJECT) as client:
        answer = await client.get(f"approvals/status?approval_id={approval}&wait=1")
        assert answer.json()["effective_status"] == "PENDING"
        short = world.approval(world.keys[Role.PROJECT], seconds=0.2)
        answer = await client.get(f"approvals/status?approval_id={short}&wait=30")
        assert answer.json()["effective_status"] == "EXPIRED"


async def test_the_same_person_counts_once_towards_a_quorum(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], quorum=2)
    _, sam = world.key(Role.APPROVER, owner="Sam")
    async with world.client(Role.APPROVER) as robin, world.client(sam) as client:
        first = (await robin.post(f"approvals/{approval}/approve", json={})).json()
        assert (first["status"], first["approved_by"]) == ("PENDING", ["Robin"])
        again = await robin.post(f"approvals/{approval}/approve", json={})
        assert again.status_code == 409
        second = (await client.post(f"approvals/{approval}/approve", json={})).json()
        assert (second["status"], second["decided_by"]) == ("APPROVED", "Robin, Sam")
    assert world.events()[-2:] == ["approval.voted", "approval.approved"]


async def test_one_denial_ends_what_waits_for_a_quorum(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], quorum=2)
    async with world.client(Role.APPROVER) as robin:
        await robin.post(f"approvals/{approval}/approve", json={})
        denied = (await robin.post(f"approvals/{approval}/deny", json={})).json()
        assert denied["status"] == "DENIED"


async def test_a_policy_says_who_may_approve(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], approvers=["sam"])
    _, sam = world.key(Role.APPROVER, owner="Sam")
    async with world.client(Role.APPROVER) as robin, world.client(sam) as client:
        answer = await robin.post(f"approvals/{approval}/approve", json={})
        assert answer.status_code == 403
        answer = await client.post(f"approvals/{approval}/approve", json={})
        assert answer.json()["status"] == "APPROVED"


async def test_a_reason_is_given_where_a_policy_wants_one(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], reason_required=True)
    async with world.client(Role.APPROVER) as robin:
        for verb in ("approve", "deny"):
            for body in ({}, {"reason": " "}):
                answer = await robin.post(f"approvals/{approval}/{verb}", json=body)
                assert answer.status_code == 400
                assert answer.json()["error"]["details"][0]["field"] == "reason"
        answer = await robin.post(f"approvals/{approval}/approve", json=WHY)
        assert answer.json()["decision_reason"] == WHY["reason"]


async def test_who_owned_key_or_agent_when_they_asked_never_approves(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], askers=["ROBIN"])
    async with world.client(Role.APPROVER) as robin:
        answer = await robin.post(f"approvals/{approval}/approve", json=WHY)
        assert answer.status_code == 403
