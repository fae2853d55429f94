"""What makes a JSON value ambiguous between readers, and the exception that says so."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from jiter import LosslessFloat

from gateway.mcp.folding import alike
from gateway.values import Json

MAX_DEPTH: Final = 64
MAX_NUMBER_LENGTH: Final = 100
_INT64: Final = 2**63


@dataclass(eq=False, slots=True)
class BadMessage(Exception):
    """A message that goes nowhere: what to answer over HTTP and in JSON-RPC, and why.

    ``rpc_id`` is the request's id where it could be read safely, else None (JSON ``null``).
    """

    http_status: int
    rpc_code: int
    message: str
    rpc_id: str | int | None = None

    def __str__(self) -> str:
        return self.message


def shown(text: str) -> str:
    """Quote caller's text for a message: ASCII, at most 80 characters or so."""
    return ascii(text if len(text) <= 64 else text[:64] + "…")


def check_values(root: dict[str, Json]) -> None:
    """Raise `BadMessage` for what two readers of JSON could understand differently.

    At any depth: nesting past 64, keys of one object that are alike once folded, integers outside
    64 bits, decimals that no double holds exactly (RFC 7493, section 2.2). Strings need no look,
    since the parser refuses lone surrogates.
    """
    _check_object(root, 1)


def _check_object(members: dict[str, Json], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadMessage(400, -32700, f"The body is nested deeper than {MAX_DEPTH} levels.")
    if len(members) > 1:
        _check_keys(members)
    for value in members.values():
        kind = type(value)
        if kind is str:
            continue
        if kind is dict:
            _check_object(value, depth + 1)
        elif kind is list:
            _check_array(value, depth + 1)
        elif kind is int or kind is LosslessFloat:
            _check_number(value)


def _check_array(items: list[Json], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadMessage(400, -32700, f"The body is nested deeper than {MAX_DEPTH} levels.")
    for value in items:
        kind = type(value)
        if kind is str:
            continue
        if kind is dict:
            _check_object(value, depth + 1)
        elif kind is list:
            _check_array(value, depth + 1)
        elif kind is int or kind is LosslessFloat:
            _check_number(value)


def _check_keys(members: dict[str, Json]) -> None:
    joined = "".join(members)
    if (
        joined.isascii()
        and "\0" not in joined
        and len({key.lower() for key in members}) == len(members)
    ):
        return
    pair = alike(members)
    if pair is not None:
        raise BadMessage(
            400, -32602, f"The keys {shown(pair[0])} and {shown(pair[1])} of one object are alike."
        )


def _check_number(value: int | LosslessFloat) -> None:
    if type(value) is int:
        if not -_INT64 <= value < _INT64:
            raise BadMessage(400, -32700, "An integer does not fit in 64 bits.")
        return
    text = str(value)
    if len(text) > MAX_NUMBER_LENGTH:
        raise BadMessage(400, -32700, f"A number is longer than {MAX_NUMBER_LENGTH} digits.")
    double = float(value)
    if not math.isfinite(double):
        raise BadMessage(400, -32700, "A number is too large for a double.")
    # repr is the shortest decimal that names this double; any other decimal is rounded by
    # readers with doubles, and is not by readers with decimals.
    if Decimal(repr(double)) != Decimal(text):
        raise BadMessage(400, -32700, "A number has more precision than a double holds.")
