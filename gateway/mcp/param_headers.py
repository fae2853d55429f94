"""The `Mcp-Param-*` headers that repeat arguments, held to the arguments they repeat.

2026-07-28, basic/transports, "Custom headers": a property of an inputSchema names its header in
`x-mcp-header`. Whoever stands in between may route by that header, so one that says something
else than the body is refused. Headers that the accepted schema does not name are not looked at.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final

from jiter import LosslessFloat

from gateway.frozen import frozen
from gateway.mcp.routing import decoded
from gateway.values import HeaderFault, Json

_ANNOTATION: Final = "x-mcp-header"
_TYPES: Final = ("string", "integer", "boolean")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_NUMBER: Final = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?", re.ASCII)
"""As long as the parser lets a number of the body be."""
_ONE: Final = frozenset(
    {
        *("items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames"),
        *("unevaluatedProperties", "not", "if", "then", "else", "contentSchema"),
    }
)
_LIST: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAP: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose values hold schemas; elsewhere (`default`, `enum`) the annotation is data."""

Headers = Iterable[tuple[bytes, bytes]]
_Path = tuple[str, ...]


@frozen
class _Repeated:
    """One argument and the header, in lower case, that repeats it."""

    path: _Path
    header: bytes
    schema: dict[str, Json]


def compile_headers(input_schema: Json) -> HeaderFault | None:
    """Return what says in a sentence how headers and arguments disagree; None: none is named.

    With one annotation that is not valid, all are void: clients must not show such a tool, so
    none sends its headers.
    """
    repeated = {one.header: one for one in _in_force(input_schema)}
    return None if not repeated else lambda arguments, sent: _fault(repeated, arguments, sent)


def repeated_in_headers(input_schema: Json) -> dict[tuple[str, ...], dict[str, Json]]:
    """The properties, by their path, whose arguments a header repeats; none when all are void."""
    return {one.path: one.schema for one in _in_force(input_schema)}


def _in_force(input_schema: Json) -> Iterable[_Repeated]:
    repeated: dict[bytes, _Repeated] = {}
    for path, schema in _schemas(input_schema):
        if _ANNOTATION not in schema:
            continue
        one = _repeated(path, schema)
        if one is None or one.header in repeated:
            return ()
        repeated[one.header] = one
    return repeated.values()


def _repeated(path: _Path | None, schema: dict[str, Json]) -> _Repeated | None:
    name, kind = schema[_ANNOTATION], schema.get("type")
    if not path or type(name) is not str or not _TOKEN.fullmatch(name) or kind not in _TYPES:
        return None
    return _Repeated(path, b"mcp-param-" + name.lower().encode(), schema)


def _schemas(root: Json) -> Iterator[tuple[_Path | None, dict[str, Json]]]:
    """Each schema with the properties that lead to it; None where something else does."""
    waiting: list[tuple[_Path | None, Json]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for keyword, value in node.items():
            if keyword == "properties" and isinstance(value, dict):
                for name, schema in value.items():
                    waiting.append((None if path is None else (*path, name), schema))
            elif keyword in _ONE:
                waiting.append((None, value))
            elif keyword in _LIST and isinstance(value, list):
                waiting.extend((None, schema) for schema in value)
            elif keyword in _MAP and isinstance(value, dict):
                waiting.extend((None, schema) for schema in value.values())


def _fault(
    repeated: Mapping[bytes, _Repeated], arguments: Mapping[str, Json], sent: Headers
) -> str | None:
    found: dict[bytes, bytes] = {}
    for name, value in sent:
        if name in repeated:
            if name in found:
                return f"The header {name.decode()} appears more than once."
            found[name] = value
    for name, one in repeated.items():
        said = found.get(name)
        value = _at(arguments, one.path)
        if said is None and _text(value) is not None:
            return f"The header {name.decode()} is missing: it must repeat {_named(one)}."
        if said is not None and not _same(decoded(said.decode("latin-1")), value, one):
            return f"The header {name.decode()} is not {_named(one)}."
    return None


def _named(one: _Repeated) -> str:
    return ascii("arguments." + ".".join(one.path))


def _at(arguments: Mapping[str, Json], path: _Path) -> Json:
    node: Json = arguments
    for key in path:
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    return node


def _text(value: Json) -> str | None:
    """An argument as a header repeats it; None for what none can."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, LosslessFloat):
        return bytes(value).decode()
    return str(value) if isinstance(value, str | int) else None


def _same(said: str | None, value: Json, one: _Repeated) -> bool:
    text = _text(value)
    if said is None or text is None:
        return False
    number = one.schema["type"] == "integer" and isinstance(value, int | LosslessFloat)
    if number and _NUMBER.fullmatch(said):
        # One integer is written in several ways: 42, 42.0. A boolean's text is no number.
        return not isinstance(value, bool) and Decimal(said) == Decimal(text)
    return said == text
