"""Money: decimal text in, millionths inside, and never a float between."""

from decimal import ROUND_CEILING, Decimal
from typing import Any

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import amounts
from gateway.amounts import MOST, NoAmount, of_call, of_policy, of_setting, shown


def sent(text: str) -> Any:
    """A value as the strict parser makes it."""
    return jiter.from_json(text.encode(), float_mode="lossless-float")


@given(st.integers(0, MOST))
def test_what_is_shown_is_read_again(micros: int) -> None:
    assert of_setting(shown(micros)) == micros
    assert of_call(shown(micros), text=True) == micros


@given(st.decimals(0, 10**9, allow_nan=False, allow_infinity=False, places=9))
def test_a_call_is_never_charged_less_than_it_says(amount: Decimal) -> None:
    exact = int((amount * amounts.MICROS).to_integral_value(rounding=ROUND_CEILING))
    assert of_call(format(amount, "f"), text=True) == exact


@pytest.mark.parametrize(
    ("text", "micros"),
    [("12", 12_000_000), ("0.1", 100_000), ("0.0000001", 1), ("1e3", 10**9), ("1e-300", 1)]
    + [("0", 0), ("0.30000000000000004", 300_001), ("1.5E-2", 15_000)],
)
def test_a_json_number_counts_as_it_was_written(text: str, micros: int) -> None:
    assert of_call(sent(text), text=False) == micros


@pytest.mark.parametrize(
    "value",
    [True, None, "12", [], {}, sent("-1"), sent("-0.5"), sent("1e15"), 10**13, sent("1e300")],
)
def test_what_is_no_amount_is_refused(value: object) -> None:
    with pytest.raises(NoAmount):
        of_call(value, text=False)


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1e3", "+1", "1_000", "NaN", "Infinity", "-Infinity", "١", "1.", ".5", "-1"],
)
def test_a_text_that_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(NoAmount):
        of_call(text, text=True)
    with pytest.raises(NoAmount):
        of_setting(text)


def test_a_policys_amount_is_the_decimal_that_it_wrote() -> None:
    assert of_policy(0.1) == 100_000
    assert of_policy(2) == 2_000_000
    for value in (True, "2", -1, float("nan"), float("inf"), None):
        with pytest.raises(NoAmount):
            of_policy(value)
