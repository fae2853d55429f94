import asyncio
from time import monotonic

import pytest

from gateway.policy.lanes import LARGE_BYTES, Lane, Lanes

pytestmark = pytest.mark.anyio


async def _yield() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def _soon() -> float:
    return monotonic() + 60


async def test_waiting_keys_take_turns_however_many_calls_each_has() -> None:
    lane, order = Lane(1), list[str]()
    await lane.enter("held", _soon())

    async def call(key: str) -> None:
        await lane.enter(key, _soon())
        order.append(key)
        lane.leave()

    tasks = [asyncio.create_task(call(key)) for key in ["loud"] * 4 + ["quiet", "other", "quiet"]]
    await _yield()
    lane.leave()
    await asyncio.gather(*tasks)
    assert order == ["loud", "quiet", "other", "loud", "quiet", "loud", "loud"]


async def test_no_more_than_the_width_are_inside() -> None:
    lane, inside, most = Lane(3), 0, 0

    async def call(n: int) -> None:
        nonlocal inside, most
        await lane.enter(f"key {n % 5}", _soon())
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        lane.leave()

    await asyncio.gather(*(call(n) for n in range(50)))
    assert most == 3


async def test_who_gives_up_waiting_leaves_no_gap_behind() -> None:
    lane = Lane(1)
    await lane.enter("a", _soon())
    with pytest.raises(TimeoutError):
        await lane.enter("b", monotonic())
    lane.leave()
    await lane.enter("c", monotonic() + 1)


async def test_a_place_given_to_a_call_that_is_cancelled_at_that_moment_is_passed_on() -> None:
    lane = Lane(1)
    await lane.enter("a", _soon())
    unlucky = asyncio.create_task(lane.enter("b", _soon()))
    next_one = asyncio.create_task(lane.enter("c", _soon()))
    await _yield()
    lane.leave()  # gives the place to b, which has not run yet
    unlucky.cancel()
    await asyncio.wait_for(next_one, 1)
    assert unlucky.cancelled()


async def test_large_inputs_go_one_at_a_time_and_leave_the_others_their_places() -> None:
    lanes = Lanes(2)
    await lanes.enter("loud", LARGE_BYTES + 1, _soon())
    with pytest.raises(TimeoutError):
        await lanes.enter("loud", LARGE_BYTES + 1, monotonic() + 0.01)
    await lanes.enter("quiet", LARGE_BYTES, monotonic() + 1)
    lanes.leave(LARGE_BYTES)
    lanes.leave(LARGE_BYTES + 1)
    await lanes.enter("loud", LARGE_BYTES + 1, monotonic() + 1)


async def test_a_large_input_that_finds_no_place_gives_its_lane_back() -> None:
    lanes = Lanes(1)
    await lanes.enter("a", 1, _soon())
    with pytest.raises(TimeoutError):
        await lanes.enter("b", LARGE_BYTES + 1, monotonic() + 0.01)
    lanes.leave(1)
    await lanes.enter("b", LARGE_BYTES + 1, monotonic() + 1)
