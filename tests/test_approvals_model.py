"""Approvals against a model: whatever races, restarts or expires, there is one outcome."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from gateway.database_place import DATABASE
from gateway.registry.approvals import Verb
from gateway.values import Fate
from tests.approvals_machine import Approvals, ApprovalsOfTwo, furnish
from tests.approvals_model import KINDS
from tests.builders import a_state


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, made once and copied for each run: migrations take longer than a run."""
    folder = tmp_path_factory.mktemp("template")
    with a_state(folder, folder / DATABASE) as world:
        world.change(furnish)
    return folder


@pytest.fixture(params=[Approvals, ApprovalsOfTwo])
def machine(request: pytest.FixtureRequest, template: Path) -> Iterator[Approvals]:
    class Machine(request.param):  # type: ignore[misc, name-defined]
        pass

    Machine.template = template
    made: Approvals = Machine()
    try:
        yield made
        made.every_row_is_worth_what_the_model_says()
    finally:
        made.teardown()


# What chance may come to late, on both databases: `_at_once` compares each step with the model.


def test_a_grant_lets_only_its_own_call_pass_and_once(machine: Approvals) -> None:
    machine.call(["one"])
    assert machine.told(0, "approve", "Ann") == ("done",)
    others = sorted(kind for kind in KINDS if KINDS[kind].asks and kind != "one")
    for place, kind in enumerate(others, 1):
        assert machine.call([kind]) == [("approval_required", place)]
    machine.another_definition_is_accepted("f" * 64)
    waits = len(others) + 1
    assert machine.call(["one"]) == [("approval_required", waits)]
    machine.another_definition_is_accepted("d" * 64)
    twice = machine.call(["one", "one"])
    assert sorted(twice) == [("approval_required", waits + 1), ("passed",)]


def test_whoever_asks_never_approves_and_nobody_counts_twice(machine: Approvals) -> None:
    asked = ["one", "other agent", "two people", "Ben alone"]
    for kind in asked:
        machine.call([kind])
    one, other, two, named = range(len(asked))
    for person in ("olga", "Olga"):
        for place in (one, two, named):
            assert machine.told(place, "approve", person) == ("Forbidden",)
    assert machine.told(other, "approve", "otto") == ("Forbidden",)
    assert machine.told(other, "approve", "olga") == ("done",)
    assert machine.told(two, "approve", "Ann") == ("done",)
    assert machine.told(two, "approve", "ANN") == ("Conflict",)
    assert machine.call(["two people"]) == [("approval_required", two)]
    assert machine.told(two, "approve", "Ben") == ("done",)
    assert machine.call(["two people"]) == [("passed",)]
    assert machine.told(named, "approve", "Ann") == ("Forbidden",)
    assert machine.told(named, "approve", "Ben") == ("done",)


@pytest.mark.parametrize(("first", "then"), [("approve", "deny"), ("deny", "approve")])
def test_what_is_decided_stays_so(machine: Approvals, first: Verb, then: Verb) -> None:
    machine.call(["one"])
    assert machine.told(0, first, "Ann") == ("done",)
    for verb in (then, first):
        assert machine.told(0, verb, "Ben") == ("Conflict",)
    outcome = ("passed",) if first == "approve" else ("approval_denied", 0)
    assert machine.call(["one"]) == [outcome]
    assert machine.told(0, then, "Ben") == ("Conflict",)


def test_what_is_too_late_is_neither_decided_nor_spent(machine: Approvals) -> None:
    machine.call(["one", "two people"])
    places = {row.kind: place for place, row in enumerate(machine.model.rows)}
    assert machine.told(places["one"], "approve", "Ann") == ("done",)
    machine.time_passes(3)
    for verb in ("approve", "deny"):
        assert machine.told(places["two people"], verb, "Ann") == ("Conflict",)
    assert machine.call(["one"]) == [("approval_expired", 2)]
    assert machine.call(["two people"]) == [("approval_expired", 3)]
    machine.call(["other policy"])
    assert machine.told(4, "deny", "Ann") == ("done",)
    machine.time_passes(3)
    assert machine.call(["other policy"]) == [("approval_required", 5)]


def test_a_stop_leaves_no_grant_behind(machine: Approvals) -> None:
    """Neither one that waits, nor one that is given, nor one whose call has yet to leave."""
    kinds = ["one", "other policy", "other agent"]
    for place, kind in enumerate(kinds):
        machine.call([kind])
        if kind != "other agent":
            assert machine.told(place, "approve", "Ann") == ("done",)
    assert machine.call(["one"]) == [("passed",)]
    machine.stop()
    for _ in machine.worlds:
        for kind in [*kinds, "free"]:
            assert machine.call([kind]) == [("emergency_stop",)]
    machine.lift()
    machine.settled_as(next(iter(machine.permits)), Fate.NOT_FORWARDED)
    assert machine.told(2, "approve", "Ann") == ("Conflict",)
    assert machine.call(["one"]) == [("approval_required", 3)]
    assert machine.call(["other policy"]) == [("approval_required", 4)]
    assert machine.call(["other agent"]) == [("approval_denied", 2)]


def test_a_call_is_settled_once(machine: Approvals) -> None:
    """Its grant and what it held go back where it surely did not leave, and not a second time."""
    machine.call(["one"])
    assert machine.told(0, "approve", "Ann") == ("done",)
    assert machine.call(["one"]) == [("passed",)]
    ((first, permit),) = machine.permits.items()
    machine.settled_as(first, Fate.NOT_FORWARDED)
    assert machine.call(["one"]) == [("passed",)]
    for fate in (Fate.NOT_FORWARDED, Fate.ANSWERED, Fate.NOT_FORWARDED):
        machine.settled_again(permit, fate)
    (second,) = machine.permits
    machine.settled_as(second, Fate.ANSWERED)
    assert machine.call(["one"]) == [("approval_required", 1)]
    machine.restart()
    for fate in (Fate.NOT_FORWARDED, Fate.ANSWERED):
        machine.settled_again(permit, fate)


def test_whatever_happens_at_once_happens_in_one_order(template: Path) -> None:
    class Machine(Approvals):
        pass

    Machine.template = template
    case = Machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=12)
    case("runTest").runTest()


def test_with_two_gateways_too(template: Path) -> None:
    class Machine(ApprovalsOfTwo):
        pass

    Machine.template = template
    case = Machine.TestCase
    case.settings = settings(max_examples=4, stateful_step_count=10)
    case("runTest").runTest()
