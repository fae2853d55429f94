"""What a policy wants out of a message taken out of it, so that it still is what it should be.

Pure. A tool's `structuredContent` must go on satisfying the tool's output schema, because clients
check it (2025-11-25, server/tools, "Structured Content"), and the text that repeats it must not
tell what was taken out. Where both cannot be had, there is no message.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import jiter
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from gateway.frozen import frozen
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.values import Json

BLACKENED: Final = "[redacted]"
_STRUCTURED: Final = "structuredContent"
_SHORTEST: Final = 3
"""Characters of a text that is looked for elsewhere; shorter ones stand everywhere."""
_MOST_TRIED: Final = 200
_GAP: Final = "\ud800"
"""Stands for what is gone until all of it is: no text that was parsed holds a lone surrogate, so
what is looked for next is not found in it."""

Path = tuple[str | int, ...]


class Unredactable(Exception):
    """Nothing can be left of it that satisfies everybody."""


@frozen
class Asked:
    """What is to go: pointers (RFC 6901; `*` is every member), and texts with new ones."""

    pointers: Sequence[str]
    replacements: Sequence[tuple[Path, str]]


def redact(body: Json, asked: Asked, output_schema: Json, *, tool_known: bool) -> Json:
    """A copy without what is asked for. Raises `Unredactable`.

    ``output_schema`` is None for a tool without one.
    """
    after = _copy(body)
    gone: list[Json] = []
    touched: list[Path] = []
    for path in chain.from_iterable(_resolved(body, pointer) for pointer in asked.pointers):
        value = _at(body, path)
        gone += _leaves(value)
        _put(after, path, _substitute(value))
        touched.append(path)
    for path, text in asked.replacements:
        value = _at(body, path)
        _put(after, path, text if isinstance(value, str) else _substitute(value))
        if not isinstance(value, str):
            gone.append(value)
        touched.append(path)
    structured = [path for path in touched if path[:1] == (_STRUCTURED,)]
    if structured:
        _keep_valid(body, after, structured, output_schema, tool_known=tool_known)
    if gone or structured:
        # The longest first, or a part of it would be taken for another.
        _scrub(body, after, sorted(gone, key=lambda leaf: len(str(leaf)), reverse=True))
    return after


def _resolved(body: Json, pointer: str) -> Iterator[Path]:
    found: list[tuple[Path, Json]] = [((), body)]
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = [
            ((*path, key), inner)
            for path, value in found
            for key, inner in _members(value)
            if name in ("*", str(key))
        ]
    yield from (path for path, _ in found)


def _members(value: Json) -> Iterator[tuple[str | int, Json]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, Mapping | list):
        for _, inner in _members(value):
            yield from _leaves(inner)
    else:
        yield value


def _at(value: Json, path: Path) -> Json:
    try:
        for key in path:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        raise Unredactable("a policy names a place that is not there") from None
    return value


def _put(root: Json, path: Path, value: Json) -> None:
    if not path:
        raise Unredactable("a policy takes out the whole message")
    try:
        holder = _at(root, path[:-1])
        holder[path[-1]] = value
    except (Unredactable, TypeError, IndexError):
        return  # what holds it is gone already


def _copy(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _substitute(value: Json) -> Json:
    """Something that says nothing, of the same type."""
    if isinstance(value, str):
        return BLACKENED
    if isinstance(value, bool) or value is None:
        return False if value is not None else None
    if isinstance(value, Mapping):
        return {}
    return [] if isinstance(value, list) else 0


def _keep_valid(
    before: Json, after: Json, paths: list[Path], schema: Json, *, tool_known: bool
) -> None:
    if not tool_known:
        raise Unredactable("it is not known which tool's output schema binds")
    if schema is None:
        return
    errors = _Errors(schema)
    if errors.of(before[_STRUCTURED]):
        raise Unredactable("it does not satisfy the tool's output schema as it is")
    if not errors.of(after[_STRUCTURED]):
        return
    if len(paths) > _MOST_TRIED:
        raise Unredactable("too much of it would have to be fitted to the tool's output schema")
    for path in paths:
        _fit(after, path, errors)
    if errors.of(after[_STRUCTURED]):
        raise Unredactable("nothing that satisfies the tool's output schema is left of it")


def _fit(after: Json, path: Path, errors: "_Errors") -> None:
    """Put the substitute there with which the fewest things are wrong; or nothing at all."""
    try:
        holder = _at(after, path[:-1])
        now = holder[path[-1]]
    except (Unredactable, KeyError, IndexError, TypeError):
        return
    best, fewest = now, errors.of(after[_STRUCTURED])
    candidates: tuple[Json, ...] = (BLACKENED, "", 0, False, None, [], {})
    for candidate in candidates:
        holder[path[-1]] = candidate
        wrong = errors.of(after[_STRUCTURED])
        if wrong < fewest:
            best, fewest = candidate, wrong
    holder[path[-1]] = best
    if fewest and isinstance(holder, dict):
        del holder[path[-1]]
        if errors.of(after[_STRUCTURED]) >= fewest:
            holder[path[-1]] = best


class _Errors:
    """How many things are wrong by a schema, which nothing is fetched for."""

    def __init__(self, schema: Json) -> None:
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError:
            raise Unredactable("the tool's output schema is none") from None
        self._validator = Draft202012Validator(schema, registry=Registry())

    def of(self, value: Json) -> int:
        try:
            return sum(1 for _ in self._validator.iter_errors(_plain(value)))
        except (Unresolvable, RecursionError):
            raise Unredactable("the tool's output schema cannot be followed") from None


def _plain(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, jiter.LosslessFloat) else value


def _scrub(before: Json, after: Json, gone: list[Json]) -> None:
    """Take out of all texts what was taken out elsewhere: text repeats `structuredContent`."""
    if not isinstance(after, dict):
        return
    structured = before.get(_STRUCTURED)
    for name, value in after.items():
        if name != _STRUCTURED:
            after[name] = _scrubbed(value, gone, structured, after.get(_STRUCTURED))


def _scrubbed(value: Json, gone: list[Json], whole: Json, left: Json) -> Json:
    if isinstance(value, dict):
        return {key: _scrubbed(inner, gone, whole, left) for key, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner, gone, whole, left) for inner in value]
    if not isinstance(value, str):
        return value
    if whole is not None and _says(value, whole):
        return write_json(left).decode()
    for leaf in gone:
        value = _without(value, leaf)
    return value.replace(_GAP, BLACKENED)


def _says(text: str, whole: Json) -> bool:
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        return bool(_plain(read_json(text.encode())) == _plain(whole))
    except Unreadable:
        return False


def _without(text: str, leaf: Json) -> str:
    if isinstance(leaf, str):
        if len(leaf) < _SHORTEST:
            return text
        escaped = write_json(leaf).decode()[1:-1]
        return text.replace(leaf, _GAP).replace(escaped, _GAP)
    if leaf is None or isinstance(leaf, bool):
        return text
    number = re.escape(write_json(leaf).decode())
    return re.sub(rf"(?<![\d.]){number}(?![\d])", _GAP, text)
