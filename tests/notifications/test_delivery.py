"""From the event to a real receiver: nothing lost, nothing forged, nothing unguarded."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import update

from gateway.anchors import rows
from gateway.anchors.values import Condition
from gateway.background import policy_trail
from gateway.background.budget_alerts import BudgetAlerts
from gateway.egress.guard import Network
from gateway.notifications.channels import Mail, Web, signature
from gateway.notifications.delivery import BACKOFF_SECONDS, Delivery
from gateway.policy.activation import Failure
from gateway.refusals import Refused
from gateway.registry import approvals, breaker_trips, notifications, pins
from gateway.registry.breaker_trips import Trip
from gateway.registry.core import Actor
from gateway.registry.faults import Conflict, Fault
from gateway.registry.notifications import NewNotification
from gateway.registry.outbox import EVENTS
from gateway.registry.stops import NewStop, raise_stop
from gateway.settings import LOOPBACK_NETWORKS
from gateway.store import tables
from gateway.values import Action, KeyId, ProjectId, Role
from tests.builders import World, a_definition, a_state
from tests.notifications.receivers import WebReceiver, a_mail_receiver, a_web_receiver

pytestmark = pytest.mark.anyio

BY = Actor.operator(ProjectId("prj_1"), "olga")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_state(tmp_path) as world:
        yield world


def target(world: World, kind: str = "webhook", **given: Any) -> tuple[str, str]:
    """Have somebody told; the id and the signing secret."""
    given = {"allow_private_network": kind != "email", **given}
    new = NewNotification.model_validate({"name": "the team", "kind": kind, **given})
    row, secret = world.state.registry.change_now(BY, lambda c: notifications.create(c, new))
    return row.id, secret or ""


def stop(world: World) -> str:
    new = NewStop(scope="all", reason="a secret reason")
    raised = world.state.registry.change_now(BY, lambda change: raise_stop(change, new))
    return str(raised.row.id)


def a_delivery(
    world: World,
    *,
    private: tuple[Network, ...] = LOOPBACK_NETWORKS,
    mail: Mail | None = None,
    listeners: frozenset[tuple[str, int]] = frozenset(),
) -> Delivery:
    web = Web(private_allowed=private, listeners=listeners)
    return Delivery(world.state.registry, web, mail)


async def delivered(delivery: Delivery) -> None:
    await delivery.once()
    await delivery.settled()


def outbox(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT state, attempts, error FROM outbox ORDER BY id")


def is_due(world: World) -> None:
    """As if the wait were over."""
    o = tables.outbox
    world.change(lambda c: c.execute(update(o).values(due_at="2000-01-01T00:00:00.000000Z")))


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The example that the specification's own libraries test against.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    made = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_webhook_is_signed_and_says_ids_and_codes_but_no_payloads(world: World) -> None:
    async with a_web_receiver() as receiver:
        _, secret = target(world, url=f"{receiver.url}/hook?x=1")
        stop_id = stop(world)
        await delivered(a_delivery(world))
    [posted] = receiver.posted
    message = orjson.loads(posted.body)
    assert message["type"] == "stop.raised"
    assert message["data"]["id"] == stop_id
    assert message["data"]["scope"] == "all"
    assert b"a secret reason" not in posted.body
    headers = posted.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + posted.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert outbox(world) == [("SENT", 1, None)]


async def test_what_is_not_taken_is_sent_again_later_under_the_same_id(world: World) -> None:
    async with a_web_receiver(503, 302) as receiver:
        target(world, url=receiver.url)
        stop(world)
        sender = a_delivery(world)
        await delivered(sender)
        assert outbox(world) == [("PENDING", 1, "the receiver answered 503")]
        await delivered(sender)
        assert len(receiver.posted) == 1  # it is not due yet
        is_due(world)
        await delivered(sender)
        assert outbox(world) == [("PENDING", 2, "the receiver answered 302")]
        is_due(world)
        await delivered(sender)
    assert outbox(world) == [("SENT", 3, None)]
    assert [posted.path for posted in receiver.posted] == ["/"] * 3  # no redirect was followed
    assert len({posted.headers["webhook-id"] for posted in receiver.posted}) == 1


async def test_a_message_is_given_up_in_the_end_or_when_its_receiver_is_gone(world: World) -> None:
    async with a_web_receiver(410) as receiver:
        target(world, url=receiver.url)
        stop(world)
        sender = a_delivery(world)
        await delivered(sender)
        assert [row[0] for row in outbox(world)] == ["FAILED"]
        o = tables.outbox
        values = {"state": "PENDING", "attempts": len(BACKOFF_SECONDS)}
        world.change(lambda c: c.execute(update(o).values(**values)))
        receiver.statuses.append(500)
        is_due(world)
        await delivered(sender)
    assert [row[:2] for row in outbox(world)] == [("FAILED", len(BACKOFF_SECONDS) + 1)]


async def test_a_crash_between_sending_and_writing_it_down_sends_it_again(tmp_path: Path) -> None:
    async with a_web_receiver() as receiver:
        with a_state(tmp_path) as world:
            target(world, url=receiver.url)
            stop(world)
            sender = a_delivery(world)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sender, "_mark", lambda *_: None)  # the process ends before it
                await delivered(sender)
            assert outbox(world) == [("PENDING", 1, None)]
        with a_state(tmp_path) as world:
            sender = a_delivery(world)
            await delivered(sender)
            assert len(receiver.posted) == 1  # its claim still holds
            is_due(world)
            await delivered(sender)
            assert outbox(world) == [("SENT", 2, None)]
    first, second = receiver.posted
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


async def test_two_gateways_send_a_message_once(world: World) -> None:
    async with a_web_receiver() as receiver:
        target(world, url=receiver.url)
        stop(world)
        one, two = a_delivery(world), a_delivery(world)
        due = await world.state.registry.read(lambda c: one._due(c, 9))
        first = await world.state.writer.change(lambda c: one._claim(c, due))
        second = await world.state.writer.change(lambda c: two._claim(c, due))
        assert (len(first), len(second)) == (1, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"allow_private_network": False}, "plain http is only for private networks"),
        ({"url": "http://169.254.169.254/latest"}, "metadata"),
        ({"url": "http://[::ffff:169.254.169.254]/"}, "metadata"),
        ({"url": "http://10.0.0.1/"}, "private network"),
    ],
)
async def test_what_must_not_be_reached_is_not(
    world: World, given: dict[str, Any], says: str
) -> None:
    async with a_web_receiver() as receiver:
        target(world, **{"url": receiver.url, **given})
        stop(world)
        await delivered(a_delivery(world))
        assert receiver.posted == []
    [(state, _, error)] = outbox(world)
    assert state == "PENDING"
    assert says in error


async def test_the_gateway_itself_is_never_told(world: World) -> None:
    async with a_web_receiver() as receiver:
        target(world, url=receiver.url)
        stop(world)
        own = frozenset({("127.0.0.1", int(receiver.url.rpartition(":")[2]))})
        await delivered(a_delivery(world, listeners=own))
        assert receiver.posted == []


async def test_what_is_not_wanted_is_not_told_and_another_project_never(world: World) -> None:
    async with a_web_receiver() as receiver:
        target(world, url=receiver.url, events=["budget.exceeded"])
        stop(world)
        await delivered(a_delivery(world))
    assert receiver.posted == []
    assert outbox(world) == []


async def test_an_approval_that_is_asked_for_is_told_with_the_call(world: World) -> None:
    async with a_web_receiver() as receiver:
        target(world, url=receiver.url)
        approved = world.approved(Action.REQUIRE_APPROVAL)
        with pytest.raises(Exception, match="approval_required"):
            await world.admission().admit(approved)
        await delivered(a_delivery(world))
    data = orjson.loads(receiver.posted[0].body)["data"]
    assert data["event"] == "approval.created"
    assert (data["tool"], data["agent"]) == ("query_records", "agt_1")
    assert data["trace_id"] == approved.call.id


async def test_all_that_may_be_told_is_told_when_it_happens(world: World) -> None:
    registry, admission = world.state.registry, world.admission()
    ann = Actor(ProjectId("prj_1"), "usr_ann", "Ann", Role.APPROVER)
    told: list[str] = []
    async with a_web_receiver() as receiver:
        target(world, url=receiver.url)
        sender = a_delivery(world)

        async def tells(*kinds: str) -> None:
            await delivered(sender)
            told.extend(orjson.loads(posted.body)["type"] for posted in receiver.posted)
            receiver.posted.clear()
            assert told[-len(kinds) :] == list(kinds)

        verbs: tuple[approvals.Verb, ...] = ("approve", "deny")
        for verb in verbs:
            approved = world.approved(Action.REQUIRE_APPROVAL, arguments={"object": verb})
            with pytest.raises(Refused) as refused:
                await admission.admit(approved)
            await tells("approval.created")
            asked_for = refused.value.data["approval_id"]
            decide = partial(approvals.decide, approval_id=asked_for, verb=verb)
            await registry.change(ann, decide)
            await tells("approval.decided")
        world.add_budget(2, warn_at=50)
        for kind in ("budget.warning", "budget.exceeded"):
            await admission.admit(world.approved())
            await BudgetAlerts(registry, world.state.ledger).look()
            await tells(kind)
        changed = {**a_definition(), "description": "Send all records away."}
        await registry.change(BY, lambda c: pins.observe(c, "srv_1", [changed]))
        await tells("tool.changed")
        failure = Failure("a typo", "all/a.rego", 1, world.state.clock.now(), None)
        await policy_trail.record(world.state, failure)
        await tells("policy.failed")
        now = world.state.clock.now()
        world.change(lambda c: rows.register(c, "flare", {}, now))
        world.change(lambda c: rows.condition(c, "flare", now, Condition.UNREACHABLE, ""))
        await tells("anchor.failed")
        trip = Trip(BY.project_id, None, KeyId("key_1"), "repeats", 1, "ask", enforced=True)
        await registry.change(BY, lambda c: breaker_trips.note(c, trip))
        await tells("breaker.tripped")
        stop(world)
        await tells("stop.raised")
    assert set(told) == set(EVENTS)


def chat(receiver: WebReceiver) -> dict[str, Any]:
    [posted] = receiver.posted
    assert "webhook-signature" not in posted.headers
    document: dict[str, Any] = orjson.loads(posted.body)
    return document


async def test_slack_and_teams_get_their_own_shapes(world: World) -> None:
    async with a_web_receiver() as slack, a_web_receiver() as teams:
        target(world, "slack", url=slack.url)
        target(world, "teams", url=teams.url)
        stop_id = stop(world)
        await delivered(a_delivery(world))
    text = chat(slack)["text"]
    assert text.startswith("*Emergency stop*\n")
    assert f"id: `{stop_id}`" in text
    [attachment] = chat(teams)["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    facts = attachment["content"]["body"][1]["facts"]
    assert {"title": "id", "value": stop_id.replace("_", "\\_")} in facts


async def test_mail_goes_to_the_deployments_mail_server(world: World) -> None:
    async with a_mail_receiver() as receiver:
        target(world, "email", address="security@example.com")
        stop_id = stop(world)
        await delivered(a_delivery(world))
        assert "GATEWAY_SMTP_URL is not set" in outbox(world)[0][2]
        is_due(world)
        mail = Mail(f"smtp://127.0.0.1:{receiver.port}", "gateway@example.com")
        await delivered(a_delivery(world, mail=mail))
    [received] = receiver.mails
    assert received["To"] == "security@example.com"
    assert received["Subject"] == "[policy-gateway] Emergency stop"
    assert f"id: {stop_id}" in received.get_content()
    assert outbox(world) == [("SENT", 2, None)]


async def test_a_mail_server_that_is_down_is_tried_again(world: World) -> None:
    target(world, "email", address="security@example.com")
    stop(world)
    await delivered(a_delivery(world, mail=Mail("smtp://127.0.0.1:1", "gateway@example.com")))
    [(state, _, error)] = outbox(world)
    assert (state, error) == ("PENDING", "the mail server did not take it: ConnectionRefusedError")


async def test_a_change_that_fails_tells_nobody(world: World) -> None:
    target(world, url="https://hooks.example.com/x")

    def fail(change: Any) -> None:
        raise_stop(change, NewStop(scope="all", reason="r"))
        raise Conflict("no")

    with pytest.raises(Fault):
        world.state.registry.change_now(BY, fail)
    assert outbox(world) == []


async def test_who_is_deleted_is_told_nothing_more(world: World) -> None:
    async with a_web_receiver() as receiver:
        notification, _ = target(world, url=receiver.url)
        stop(world)
        world.state.registry.change_now(BY, lambda c: notifications.remove(c, notification))
        await delivered(a_delivery(world))
    assert receiver.posted == []
    assert outbox(world) == []


async def test_an_anchor_that_fails_is_told_once_and_not_when_it_is_well(world: World) -> None:
    async with a_web_receiver() as receiver:
        target(world, url=receiver.url)
        now = world.state.clock.now()
        world.change(lambda c: rows.register(c, "flare", {}, now))
        for condition in (Condition.UNREACHABLE, Condition.UNREACHABLE, Condition.OK):
            tell = partial(rows.condition, name="flare", now=now, condition=condition, detail="")
            world.change(tell)
        await delivered(a_delivery(world))
    [posted] = receiver.posted
    message = orjson.loads(posted.body)
    assert message["type"] == "anchor.failed"
    assert (message["data"]["backend"], message["data"]["condition"]) == ("flare", "unreachable")
