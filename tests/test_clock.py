"""The one clock: fixed width, so that times sort as text, and never backwards."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import Clock, after, parse, rfc3339

moments = st.floats(0, 4e9, allow_nan=False)


@given(moments, moments)
def test_times_sort_as_text(one: float, other: float) -> None:
    assert len(rfc3339(one)) == len("2026-01-31T12:00:00.000000Z")
    if rfc3339(one) < rfc3339(other):
        assert one < other


@given(st.lists(moments, min_size=1, max_size=20))
def test_a_clock_never_shows_a_time_before_one_that_it_has_shown(ticks: list[float]) -> None:
    source = iter(ticks)
    clock = Clock(lambda: next(source))
    shown = [clock.now() for _ in ticks]
    assert shown == sorted(shown)
    assert shown[-1] == rfc3339(max(ticks))


def test_a_clock_goes_on_after_the_last_record() -> None:
    clock = Clock(lambda: 1000.0)
    clock.not_before(rfc3339(2000.0))
    assert clock.now() == rfc3339(2000.0)
    clock.not_before(rfc3339(1500.0))
    assert clock.now() == rfc3339(2000.0)


@given(moments, st.integers(0, 10**8))
def test_a_time_after_another_is_so_many_seconds_later(moment: float, seconds: int) -> None:
    start = rfc3339(moment)
    assert (parse(after(start, seconds)) - parse(start)).total_seconds() == seconds
