"""The difference between files and a gateway: done once it is gone, and each step is needed."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.configuration.document import Document
from gateway.configuration.items import Item, Scalar, item
from gateway.configuration.plan import plan
from gateway.configuration.telling import as_object, as_text
from tests.configuration.items import (
    NEXT_YEAR,
    NOW,
    PAST,
    as_document,
    as_live,
    carried_out,
    projects,
)

MANY = 40
"""Projects are costly to draw; more are drawn with another seed at each run."""


def a_rule(**given: Scalar) -> Item:
    values: dict[str, Scalar] = {
        **dict.fromkeys(("agent", "server", "tool", "tool_pattern", "min_risk", "expires_at")),
        **{"action": "DENY", "reason": "", "enabled": True},
        **given,
    }
    return item("rule", values, place="a.yaml:7")


def a_server(**given: Scalar) -> Item:
    values: dict[str, Scalar] = {
        **{"slug": "crm", "name": "CRM", "server_url": "https://a.example/", "auth_type": "none"},
        **given,
    }
    auth = {"type": str(values["auth_type"]), "token": "${env:T}"}
    return item("server", values, auth=auth, place="a.yaml:3")


def an_agent(**given: Scalar) -> Item:
    return item("agent", {"name": "bot", "owner": "ada", "description": "", **given}, place="a:1")


def live(*items: Item) -> list[Item]:
    return as_live(items)


def document(*items: Item) -> Document:
    return Document(items, frozenset({"agent", "server", "rule", "override", "budget"}))


@settings(max_examples=MANY)
@given(projects(), projects(), st.booleans())
def test_what_was_applied_plans_nothing(
    before: tuple[Item, ...], wanted: tuple[Item, ...], prune: bool
) -> None:
    there = as_live(before)
    todo = plan(as_document(wanted), there, NOW, prune=prune)
    after = carried_out(todo, there)
    again = plan(as_document(wanted), after, NOW, prune=prune)
    assert again.steps == ()
    assert again.not_managed == (() if prune else again.not_managed)
    if prune:
        left = [one for one in after if not one.revoked]
        assert sorted(map(_told, left)) == sorted(map(_told, wanted))


@settings(max_examples=MANY)
@given(projects(), projects(), st.integers(0, 30), st.booleans())
def test_what_was_cut_short_is_finished_by_a_repeat(
    before: tuple[Item, ...], wanted: tuple[Item, ...], steps: int, prune: bool
) -> None:
    there = as_live(before)
    wanted_document = as_document(wanted)
    half = carried_out(plan(wanted_document, there, NOW, prune=prune), there, steps)
    whole = carried_out(plan(wanted_document, half, NOW, prune=prune), half)
    assert plan(wanted_document, whole, NOW, prune=prune).steps == ()


@settings(max_examples=MANY)
@given(projects(), projects())
def test_a_plan_without_prune_deletes_nothing(
    before: tuple[Item, ...], wanted: tuple[Item, ...]
) -> None:
    todo = plan(as_document(wanted), as_live(before), NOW)
    superseding = {one.key for one in wanted if one.noun == "override"}
    deleted = {step.item.key for step in todo.steps if step.kind == "delete"}
    assert deleted <= superseding


@settings(max_examples=MANY)
@given(projects())
def test_what_is_there_needs_no_step(project: tuple[Item, ...]) -> None:
    assert plan(as_document(project), as_live(project), NOW, prune=True).steps == ()


@settings(max_examples=MANY)
@given(projects(), projects())
def test_a_server_opens_last(before: tuple[Item, ...], wanted: tuple[Item, ...]) -> None:
    steps = plan(as_document(wanted), as_live(before), NOW, prune=True).steps
    opening = [step.changes.get("status", ("", ""))[1] == "ACTIVE" for step in steps]
    assert opening == sorted(opening)


def _told(one: Item) -> str:
    return repr((one.key, sorted(one.fields.items())))


def test_another_action_changes_the_rule_and_another_tool_makes_one() -> None:
    there = live(a_rule(tool_pattern="a", action="ALLOW"))
    changed = plan(document(a_rule(tool_pattern="a")), there, NOW)
    assert [(step.kind, step.changes) for step in changed.steps] == [
        ("change", {"action": ("ALLOW", "DENY")})
    ]
    made = plan(document(a_rule(tool_pattern="b")), there, NOW)
    assert [step.kind for step in made.steps] == ["create"]
    assert [one.name for one in made.not_managed] == ["a"]


def test_rules_of_one_scope_that_are_equal_already_belong_together() -> None:
    there = live(a_rule(action="DENY"), a_rule(action="LOG_ONLY"))
    todo = plan(document(a_rule(action="LOG_ONLY")), there, NOW)
    assert todo.steps == ()
    assert [one.fields["action"] for one in todo.not_managed] == ["DENY"]


def test_an_override_that_another_took_the_place_of_is_removed_once() -> None:
    values: dict[str, Scalar] = {
        **{"policy": "p", "server": "crm", "agent": None},
        **{"action": "DENY", "reason": "x", "expires_at": NEXT_YEAR},
    }
    old, new = (item("override", {**values, "action": action}) for action in ("ALLOW", "DENY"))
    for prune in (False, True):
        todo = plan(document(a_server(), new), live(a_server(), old, new), NOW, prune=prune)
        assert [(step.kind, step.item.fields["action"]) for step in todo.steps] == [
            ("delete", "ALLOW")
        ]
        assert todo.not_managed == ()


def test_a_section_that_the_files_do_not_have_is_not_theirs() -> None:
    rules_only = Document((a_rule(),), frozenset({"rule"}))
    todo = plan(rules_only, live(a_server(), an_agent()), NOW, prune=True)
    assert [step.kind for step in todo.steps] == ["create"]
    nothing = Document((), frozenset({"rule"}))
    pruned = plan(nothing, live(a_rule(), an_agent()), NOW, prune=True)
    assert [(step.kind, step.item.noun) for step in pruned.steps] == [("delete", "rule")]


def test_what_has_expired_is_as_good_as_not_there() -> None:
    expired = a_rule(expires_at=PAST)
    todo = plan(document(expired), [], NOW)
    assert todo.steps == ()
    assert todo.lapsed == (expired,)
    assert "a.yaml:7" in as_text(todo)
    pruned = plan(document(expired), live(expired), NOW, prune=True)
    assert [step.kind for step in pruned.steps] == ["delete"]
    prolonged = plan(document(a_rule(expires_at=NEXT_YEAR)), live(expired), NOW)
    assert [step.kind for step in prolonged.steps] == ["change"]


def test_one_door_is_closed_before_another_is_opened() -> None:
    shut, open_ = ("PENDING_APPROVAL", "ACTIVE")
    there = live(a_server(slug="a", status=shut), a_server(slug="b", status=open_), a_rule())
    wanted = document(a_server(slug="a", status=open_), a_server(slug="b", status=shut))
    steps = plan(wanted, there, NOW, prune=True).steps
    assert [(step.kind, step.item.name) for step in steps] == [
        ("change", "b"),
        ("delete", "every call"),
        ("change", "a"),
    ]


def test_a_file_lifts_no_block() -> None:
    todo = plan(document(a_server(status="ACTIVE")), live(a_server(status="BLOCKED")), NOW)
    assert len(todo.problems) == 1
    assert plan(document(a_server()), live(a_server(status="BLOCKED")), NOW).problems == ()
    assert plan(document(a_server()), live(a_server(status="BLOCKED")), NOW).steps == ()


def test_a_connector_never_changes() -> None:
    there = live(a_server(connector_type="custom"))
    todo = plan(document(a_server(connector_type="salesforce")), there, NOW)
    assert "another slug" in todo.problems[0]


def test_a_revoked_agents_name_is_never_used_again() -> None:
    revoked = [replace(one, revoked=True) for one in live(an_agent())]
    assert "revoked" in plan(document(an_agent()), revoked, NOW).problems[0]
    pruned = plan(document(), revoked, NOW, prune=True)
    assert pruned.steps == ()
    assert plan(document(), revoked, NOW).not_managed == ()


def test_references_lead_somewhere_that_stays() -> None:
    rule = a_rule(agent="bot")
    assert plan(document(rule), [], NOW).problems == (
        "a.yaml:7: there is no agent bot, here or on the gateway",
    )
    assert plan(document(rule, an_agent()), [], NOW).problems == ()
    assert plan(document(rule), live(an_agent()), NOW).problems == ()
    assert plan(document(rule), live(an_agent()), NOW, prune=True).problems != ()
    revoked = [replace(one, revoked=True) for one in live(an_agent())]
    assert plan(document(rule), revoked, NOW).problems != ()


def test_a_rerouted_server_is_sent_its_credential_and_approved_anew() -> None:
    there = live(a_server(auth_type="bearer", status="ACTIVE"))
    moved = a_server(auth_type="bearer", status="ACTIVE", server_url="https://b.example/")
    reroute, approve = plan(document(moved), there, NOW).steps
    assert reroute.sends_auth
    assert approve.changes == {"status": ("PENDING_APPROVAL", "ACTIVE")}
    renamed = a_server(auth_type="bearer", status="ACTIVE", name="Sales")
    (step,) = plan(document(renamed), there, NOW).steps
    assert not step.sends_auth


def test_a_credential_is_sent_anew_when_asked_for() -> None:
    server = a_server(auth_type="bearer", status="ACTIVE")
    assert plan(document(server), live(server), NOW).steps == ()
    sent, approved = plan(document(server), live(server), NOW, resend=frozenset({"crm"})).steps
    assert sent.sends_auth
    assert approved.changes == {"status": ("PENDING_APPROVAL", "ACTIVE")}
    without = document(a_server())
    assert plan(without, live(a_server()), NOW, resend=frozenset({"crm"})).problems != ()


@pytest.mark.parametrize("status", [None, "ACTIVE"])
def test_a_plan_is_told_by_name(status: str | None) -> None:
    given = {} if status is None else {"status": status}
    there = live(a_rule(tool_pattern="x", server="crm", min_risk="HIGH", agent="bot"))
    todo = plan(
        document(a_server(auth_type="bearer", **given), an_agent()),
        [*there, *live(an_agent(owner="kim\nlee"))],
        NOW,
        prune=True,
    )
    opened = ["~ server crm: status PENDING_APPROVAL -> ACTIVE"] if status else []
    assert as_text(todo).splitlines() == [
        "~ agent bot: owner 'kim\\nlee' -> ada",
        "+ server crm",
        "- rule x on crm for bot from HIGH",
        *opened,
        f"1 to create, {1 + len(opened)} to change, 1 to delete",
    ]
    assert "env:T" not in f"{as_text(todo)}{as_object(todo)}"
