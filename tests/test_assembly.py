"""What the gateway remembers of the calls that it cut."""

from types import SimpleNamespace
from typing import cast

from gateway.assembly import CUTS_KEPT, Gateway
from gateway.values import ProjectId, Stop, StopId


def a_stop(stop_id: str) -> Stop:
    return Stop(StopId(stop_id), ProjectId("prj_1"), "all", None, "a drill")


def test_who_raised_a_stop_is_told_what_was_cut_when_the_database_told_of_it_first() -> None:
    running = [3, 0, 1]
    parts = SimpleNamespace(cut=lambda _: running.pop(0))
    gateway = cast(Gateway, SimpleNamespace(upstreams=parts, cuts={}))
    assert Gateway.cancel_calls(gateway, a_stop("stp_1")) == 3
    assert Gateway.cancel_calls(gateway, a_stop("stp_1")) == 3
    assert Gateway.cancel_calls(gateway, a_stop("stp_2")) == 1


def test_only_the_newest_stops_are_remembered() -> None:
    gateway = cast(Gateway, SimpleNamespace(upstreams=SimpleNamespace(cut=lambda _: 1), cuts={}))
    for n in range(2 * CUTS_KEPT):
        Gateway.cancel_calls(gateway, a_stop(f"stp_{n}"))
    assert list(gateway.cuts) == [f"stp_{n}" for n in range(CUTS_KEPT, 2 * CUTS_KEPT)]
