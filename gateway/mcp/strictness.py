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
_MAX_EXPONENT: Final = 500
"""Only a zero can be written with more (`0e999999999`), to make a reader with decimals work."""

_KEPT_KEYS: Final = 4096
_MOST_KEPT_KEYS: Final = 64
_LONGEST_KEPT_KEYS: Final = 1024
_differing: Final[set[tuple[str, ...]]] = set()
"""Keys of objects that were found to differ, in their order."""


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

    At any depth: nesting past 64, keys of one object that are alike once folded, the key
    ``__proto__``, integers outside 64 bits, decimals that no double holds (RFC 7493, section
    2.2). Strings need no look, since the parser refuses lone surrogates.
    """
    depth = 0
    level: list[Json] = [root]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise BadMessage(400, -32700, f"The body is nested deeper than {MAX_DEPTH} levels.")
        level = _below(level)


def _below(level: list[Json]) -> list[Json]:
    """Check the objects and arrays of one level; return those of the next."""
    below: list[Json] = []
    for node in level:
        if type(node) is dict:
            # Calls of one tool have the same keys, thousands of times.
            if node and tuple(node) not in _differing and not _differ(node):
                _complain(node)
            node = node.values()
        for value in node:
            kind = type(value)
            if kind is str:
                continue
            if kind is dict or kind is list:
                below.append(value)
            elif kind is int:
                if not -_INT64 <= value < _INT64:
                    raise BadMessage(400, -32700, "An integer does not fit in 64 bits.")
            elif kind is LosslessFloat:
                _check_decimal(value)
    return below


def _differ(members: dict[str, Json]) -> bool:
    """Whether it is plain to see that no two keys are alike, and none is ``__proto__``."""
    if len(members) > _MOST_KEPT_KEYS:
        return _plainly_differ(tuple(members))
    keys = tuple(members)
    if not _plainly_differ(keys):
        return False
    if sum(map(len, keys)) <= _LONGEST_KEPT_KEYS:
        if len(_differing) >= _KEPT_KEYS:
            _differing.clear()
        _differing.add(keys)
    return True


def _plainly_differ(keys: tuple[str, ...]) -> bool:
    # Most keys are ASCII without NUL; then folding is lower case, and one string at a time is fast.
    joined = "\0".join(keys)
    lowered = joined.lower().split("\0")
    plain = joined.isascii() and "__proto__" not in lowered
    return plain and len(set(lowered)) == len(lowered) == len(keys)


def _complain(members: dict[str, Json]) -> None:
    if "__proto__" in members:
        # A reader in JavaScript drops it, or makes its value the object's prototype.
        raise BadMessage(400, -32602, "The key '__proto__' is not accepted.")
    pair = alike(members)
    if pair is not None:
        raise BadMessage(
            400, -32602, f"The keys {shown(pair[0])} and {shown(pair[1])} of one object are alike."
        )


def _check_decimal(value: LosslessFloat) -> None:
    text = str(value)
    double = float(value)
    # repr is the shortest decimal that names this double; any other decimal is rounded by
    # readers with doubles, and is not by readers with decimals.
    shortest = repr(double)
    if shortest == text:
        return
    if len(text) > MAX_NUMBER_LENGTH:
        raise BadMessage(400, -32700, f"A number is longer than {MAX_NUMBER_LENGTH} digits.")
    if not math.isfinite(double):
        raise BadMessage(400, -32700, "A number is too large for a double.")
    sent = Decimal(text)
    if Decimal(shortest) != sent or abs(sent.adjusted()) > _MAX_EXPONENT:
        raise BadMessage(400, -32700, "A number has more precision than a double holds.")
