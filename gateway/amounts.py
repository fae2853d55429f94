"""Amounts of money: decimal text outside, whole millionths inside, a float nowhere.

One unit is the project's own, whatever its prices are in. More than six decimals of a call's
amount round up, so that many small calls cannot cost nothing.
"""

import re
from decimal import ROUND_CEILING, Decimal

from jiter import LosslessFloat

MICROS = 10**6
MOST = 10**18
"""Millionths; sums of many stay far below what a 64-bit column holds."""

_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")


class NoAmount(ValueError):
    """What stands where an amount should be is none; the message says why."""


def of_setting(given: int | str) -> int:
    """A price, cap or limit as an administrator writes it. Raises `NoAmount`."""
    micros = _scaled(_decimal(str(given)), rounding=None)
    return _within(micros)


def of_call(value: object, *, text: bool) -> int:
    """An amount as a call sends it: a JSON number or, where ``text``, a decimal string.

    Raises `NoAmount`.
    """
    if text:
        if not isinstance(value, str):
            raise NoAmount("is no decimal string")
        number = _decimal(value)
    elif isinstance(value, LosslessFloat):
        number = Decimal(bytes(value).decode())
    elif isinstance(value, int) and not isinstance(value, bool):
        number = Decimal(value)
    else:
        raise NoAmount("is no number")
    return _within(_scaled(number, rounding=ROUND_CEILING))


def of_policy(value: object) -> int:
    """An amount that a policy's obligation names. Raises `NoAmount`."""
    # The shortest text that is this double: OPA writes a decimal, and 15 digits survive the trip.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoAmount("is no number")
    return _within(_scaled(Decimal(repr(value)), rounding=ROUND_CEILING))


def shown(micros: int) -> str:
    """Plain decimal text without idle zeros: ``12.5``."""
    whole, part = divmod(abs(micros), MICROS)
    text = f"{whole}.{part:06d}".rstrip("0").rstrip(".")
    return f"-{text}" if micros < 0 else text


def _decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise NoAmount("is no decimal number, such as 12.50")
    return Decimal(text)


def _scaled(number: Decimal, *, rounding: str | None) -> int:
    if not number.is_finite():
        raise NoAmount("is not finite")
    if number and number.adjusted() > 20:  # before an exponent is written out
        raise NoAmount("is too large")
    if number and number.adjusted() < -400:
        number = Decimal("1e-7").copy_sign(number)
    scaled = number.scaleb(6)
    whole = scaled.to_integral_value(rounding=ROUND_CEILING)
    if rounding is None and whole != scaled:
        raise NoAmount("has more than six decimals")
    return int(whole)


def _within(micros: int) -> int:
    if micros < 0:
        raise NoAmount("is negative")
    if micros > MOST:
        raise NoAmount("is too large")
    return micros
