"""The checks that a JSON Schema is compiled to, each a function of a value and its cost."""

import json
from collections.abc import Callable, Mapping
from typing import Final

from jiter import LosslessFloat

from gateway.mcp.folding import fold
from gateway.mcp.schema_document import UnreadableSchema
from gateway.mcp.strictness import shown
from gateway.values import Json

MAX_CHECKS: Final = 100_000
"""Values looked at per call, each branch of a union counted: some 20 ms of work."""

Fault = tuple[str, str]
"""Where, as a path below the value looked at, and what is wrong there."""
Cost = list[int]
"""One number: how many more values may be looked at."""
Check = Callable[[Json, Cost], Fault | None]
Patterns = list[tuple[Callable[[str], bool | None], Check]]
"""For each pattern whether a key matches it (None: cannot say), and the check if so."""

_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float, LosslessFloat),
    "object": (dict,),
    "string": (str,),
}
_SPOKEN: Final = {
    "array": "an array",
    "boolean": "a boolean",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}
_GOT: Final[Mapping[type, str]] = {
    list: "an array",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    LosslessFloat: "a decimal",
    type(None): "null",
    dict: "an object",
    str: "a string",
}


class TooCostly(Exception):
    """The schema and the arguments together would take too long to compare."""


def anything(value: Json, cost: Cost) -> Fault | None:
    return None


def nothing(value: Json, cost: Cost) -> Fault | None:
    return "", "is not allowed by the schema"


def _charge(cost: Cost, amount: int) -> None:
    cost[0] -= amount
    if cost[0] < 0:
        raise TooCostly


def every(checks: list[Check], nullable: bool) -> Check:
    if not checks:
        return anything
    if len(checks) == 1 and not nullable:
        return checks[0]

    def checked(value: Json, cost: Cost) -> Fault | None:
        if nullable and value is None:
            return None
        _charge(cost, 1)
        for check in checks:
            fault = check(value, cost)
            if fault is not None:
                return fault
        return None

    return checked


def of_type(stated: Json) -> Check:
    names = stated if isinstance(stated, list) else [stated]
    if not all(isinstance(name, str) and name in _KINDS for name in names):
        raise UnreadableSchema(f"has a type that is unknown, {shown(json.dumps(stated))}")
    kinds = frozenset(kind for name in names for kind in _KINDS[name])
    whole = "integer" in names and "number" not in names
    wanted = " or ".join(_SPOKEN[name] for name in names)

    def checked(value: Json, cost: Cost) -> Fault | None:
        kind = type(value)
        if kind in kinds or (whole and kind in (float, LosslessFloat) and _is_whole(value)):
            return None
        return "", f"must be {wanted}, got {_GOT[kind]}"

    return checked


def _is_whole(value: float | LosslessFloat) -> bool:
    # Past 2^53 a decimal with an exponent is another integer as a double than as a decimal.
    double = float(value)
    return double.is_integer() and abs(double) <= 2**53


def one_of(members: list[Json]) -> Check:
    allowed = [_comparable(member) for member in members]
    scalars = frozenset(member for member in allowed if isinstance(member, tuple))
    others = [member for member in allowed if not isinstance(member, tuple)]

    def checked(value: Json, cost: Cost) -> Fault | None:
        _charge(cost, 1 + len(others))
        found = _comparable(value)
        if (found in scalars) if isinstance(found, tuple) else (found in others):
            return None
        return "", "is not one of the values that the schema allows"

    return checked


def _comparable(value: Json) -> Json:
    """Return ``value`` such that equal JSON values are equal: 1 is 1.0, but true is not 1."""
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, LosslessFloat):
        value = float(value)
    return (isinstance(value, bool), value)


def any_of(checks: list[Check], branches: list[Json]) -> Check:
    names = [part.get("type") if isinstance(part, dict) else None for part in branches]
    spoken = [_SPOKEN[name] for name in names if isinstance(name, str) and name in _SPOKEN]
    wanted = " or ".join(spoken) if len(spoken) == len(checks) else ""

    def checked(value: Json, cost: Cost) -> Fault | None:
        _charge(cost, len(checks))
        deepest: Fault = "", ""
        for check in checks:
            fault = check(value, cost)
            if fault is None:
                return None
            deepest = max(deepest, fault, key=lambda each: len(each[0]))
        if deepest[0]:
            return deepest
        if wanted:
            return "", f"must be {wanted}, got {_GOT[type(value)]}"
        return "", f"is {_GOT[type(value)]} of a form that the schema does not allow"

    return checked


def if_present(key: str, check: Check) -> Check:
    return lambda value, cost: check(value, cost) if type(value) is dict and key in value else None


def follow(cell: list[Check]) -> Check:
    def checked(value: Json, cost: Cost) -> Fault | None:
        # Charged, because a schema that only leads to itself never looks at a value.
        _charge(cost, 1)
        return cell[0](value, cost)

    return checked


def spelled_like(names: frozenset[str]) -> Check:
    folded = {fold(name): name for name in names}

    def checked(value: Json, cost: Cost) -> Fault | None:
        if type(value) is not dict:
            return None
        for key in value:
            if key not in names and (meant := folded.get(fold(key))) is not None:
                return _step(key), f"is not a property of the schema; {shown(meant)} is"
        return None

    return checked


def object_of(properties: dict[str, Check], patterns: Patterns, rest: Check) -> Check:
    def checked(value: Json, cost: Cost) -> Fault | None:
        if type(value) is not dict:
            return None
        _charge(cost, len(value) * (1 + len(patterns)))
        for key, item in value.items():
            check = properties.get(key)
            if patterns:
                check = _matching(key, patterns, check, rest)
            fault = (check or rest)(item, cost)
            if fault is not None:
                return _step(key) + fault[0], fault[1]
        return None

    return checked


def _matching(key: str, patterns: Patterns, listed: Check | None, rest: Check) -> Check:
    """Return the check for one key where patterns count too; `rest` is for no match at all."""
    found = [(matches(key), check) for matches, check in patterns]
    sure = [check for matched, check in found if matched]
    if listed is not None:
        sure.append(listed)
    if sure:
        return every(sure, False)
    unsure = [check for matched, check in found if matched is None]
    return any_of([*unsure, rest], [None] * (len(unsure) + 1)) if unsure else rest


def not_json_in_a_string(check: Check) -> Check:
    """Refuse a string where the JSON in it would do as well: servers take either."""

    def checked(value: Json, cost: Cost) -> Fault | None:
        fault = check(value, cost)
        if fault is not None or type(value) is not str or value.lstrip()[:1] not in tuple("[{n"):
            return fault
        try:
            held = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if check(held, cost) is not None:
            return None
        return "", "is a string that holds JSON; send that value itself, not as a string"

    return checked


def array_of(heads: list[Check], others: Check) -> Check:
    def checked(value: Json, cost: Cost) -> Fault | None:
        if type(value) is not list:
            return None
        _charge(cost, len(value))
        for index, item in enumerate(value):
            fault = (heads[index] if index < len(heads) else others)(item, cost)
            if fault is not None:
                return f"[{index}]{fault[0]}", fault[1]
        return None

    return checked


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() and len(key) <= 64 else f"[{shown(key)}]"
