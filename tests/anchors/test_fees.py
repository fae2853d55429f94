"""What a transaction may cost. A Flare node's rules are stricter here than anvil's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.anchors.fees import (
    ANCHOR_GAS,
    GWEI,
    WEI_PER_FLR,
    Fees,
    Market,
    Purse,
    bumped,
    first_fees,
    gas_limit,
    needed,
    spacing,
)

DAY = 86_400
RICH = 10**30
fee = st.integers(0, 10**14)


@given(max_fee=fee, tip=fee, base=fee, suggested=fee)
def test_a_replacement_is_more_than_a_tenth_above_in_both_fields(
    max_fee: int, tip: int, base: int, suggested: int
) -> None:
    """go-flare's legacy pool: PriceBump 10, strictly greater."""
    old = Fees(max_fee, tip)
    new = bumped(old, Market(base, suggested), ANCHOR_GAS, RICH)
    assert new is not None
    assert new.tip > old.tip
    assert new.max_fee > old.max_fee
    assert new.tip * 10 >= old.tip * 11
    assert new.max_fee * 10 >= old.max_fee * 11
    assert new.max_fee >= new.tip


def test_a_tip_of_nothing_becomes_one_wei() -> None:
    market = Market(base_fee=1, tip=0)
    first = first_fees(market, ANCHOR_GAS, RICH)
    assert first == Fees(5, 1)
    again = bumped(Fees(5, 0), market, ANCHOR_GAS, RICH)
    assert again is not None
    assert again.tip == 1


def test_a_replacement_never_goes_over_the_days_money() -> None:
    old = Fees(100 * GWEI, GWEI)
    market = Market(20 * GWEI, GWEI)
    just = -(-old.max_fee * 9 // 8) * ANCHOR_GAS
    assert bumped(old, market, ANCHOR_GAS, just) is not None
    assert bumped(old, market, ANCHOR_GAS, just - 1) is None


def test_the_worst_case_of_the_one_in_flight_fits_into_what_is_left() -> None:
    market = Market(500 * GWEI, GWEI)
    left = 600 * GWEI * ANCHOR_GAS
    fees = first_fees(market, ANCHOR_GAS, left)
    assert fees == Fees(600 * GWEI, GWEI)
    assert first_fees(market, ANCHOR_GAS, 500 * GWEI * ANCHOR_GAS) is None


def test_the_limit_is_a_fifth_above_the_estimate() -> None:
    assert gas_limit(36_103) == 43_323


@pytest.mark.parametrize(("gwei", "seconds"), [(1, 10), (25, 10), (500, 15.6), (1200, 37.4)])
def test_the_default_cap_lasts_the_day_at_any_price(gwei: int, seconds: float) -> None:
    market = Market(gwei * GWEI, 1)
    apart = spacing(Purse(100 * WEI_PER_FLR, 0, DAY), market, ANCHOR_GAS, 10)
    assert apart == pytest.approx(seconds, rel=0.01)


@given(
    cap=st.integers(1, 10**21),
    gwei=st.integers(1, 5000),
    moves=st.lists(st.integers(1, 200), min_size=1, max_size=30),
)
def test_the_money_never_runs_dry_while_the_price_stays(
    cap: int, gwei: int, moves: list[int]
) -> None:
    """Whatever anchors were sent, at the spacing that was told, one more can be paid at the end."""
    market = Market(gwei * GWEI, 1)
    cost = ANCHOR_GAS * (market.base_fee + 1)
    spent, left = 0, float(DAY)
    for wait in moves:
        apart = spacing(Purse(cap, spent, left), market, ANCHOR_GAS, 10)
        if apart == float("inf"):
            assert cap - spent < cost
            return
        left -= apart + wait
        if left <= 0:
            return
        spent += cost
        assert spent <= cap


def test_the_cap_that_would_be_needed_is_what_a_day_costs() -> None:
    wei = needed(Market(500 * GWEI, GWEI), ANCHOR_GAS, 30)
    assert wei / WEI_PER_FLR == pytest.approx(52.1, rel=0.01)
