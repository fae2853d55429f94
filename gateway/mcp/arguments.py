"""A tool's inputSchema, compiled to a function that holds a call's arguments to its JSON types.

A server may turn one type into another (an SDK was seen reading a *string* that holds JSON as the
object in it), and then policy has judged a value that the tool never got. So a type that the
accepted schema does not allow goes no further.

Enforced: ``type``, ``const``, ``enum``, ``nullable``, ``properties``, ``patternProperties``,
``additionalProperties``, ``items`` (also as a list), ``additionalItems``, ``prefixItems``,
``allOf``, ``anyOf``, ``oneOf`` (as anyOf), ``if``/``then``/``else`` (as anyOf of the last two),
``dependentSchemas``, boolean schemas, ``$ref``, ``$dynamicRef`` and ``$recursiveRef`` within the
document. Besides, at every object: no key that only folds to the name of a property; and among
the arguments themselves: no string that holds JSON which the schema would take in its place.
Where a property is not required and its ``x-mcp-header`` is in force, its ``type`` takes null too:
the protocol has it mean "not given" there (2026-07-28, basic/transports, "Custom headers").

Not enforced, because they say nothing of types: ``required``, ranges, lengths, ``pattern``,
``format``, ``not``, ``contains``, ``propertyNames``, ``unevaluated…``. A ``$ref`` out of the
document is never fetched; what stands beside it is enforced, and it alone says nothing. What
cannot be read (an unknown type, a dangling local ``$ref``) allows nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from gateway.mcp.param_headers import repeated_in_headers
from gateway.mcp.schema_checks import (
    MAX_CHECKS,
    Check,
    TooCostly,
    any_of,
    anything,
    array_of,
    every,
    follow,
    if_present,
    not_json_in_a_string,
    nothing,
    object_of,
    of_type,
    one_of,
    spelled_like,
)
from gateway.mcp.schema_document import Document, UnreadableSchema, safe_pattern
from gateway.mcp.strictness import shown
from gateway.values import Json

_UNIONS: Final = ("anyOf", "oneOf")


def compile_schema(input_schema: Json) -> Callable[[Mapping[str, Json]], str | None]:
    """Return a function that says in one sentence what is wrong with arguments, or None.

    The values are those of the strict parser. Compiling never fails: of a schema that cannot be
    read, the function says so for whatever arguments.
    """
    try:
        check = _Compiler(input_schema).node(input_schema, True, True)
    except (UnreadableSchema, RecursionError) as fault:
        said = str(fault) if isinstance(fault, UnreadableSchema) else "is nested too deep"
        sentence = f"arguments cannot be checked: the tool's inputSchema {said}"
        return lambda _: sentence

    def argument_fault(arguments: Mapping[str, Json]) -> str | None:
        try:
            fault = check(arguments, [MAX_CHECKS])
        except (TooCostly, RecursionError):
            return "arguments are too large or too deep to be checked against the inputSchema"
        return None if fault is None else f"arguments{fault[0]} {fault[1]}"

    return argument_fault


class _Compiler:
    """Turns the schemas of one document into checks, each referenced schema once.

    ``fresh`` schemas are the first to look at a value, others join in place (allOf, $ref, …);
    ``top`` ones look at the arguments themselves.
    """

    def __init__(self, root: Json) -> None:
        self._document = Document(root)
        self._headers = frozenset(id(schema) for schema in repeated_in_headers(root).values())
        self._referenced: dict[tuple[int, bool], list[Check]] = {}

    def node(self, schema: Json, fresh: bool, top: bool) -> Check:
        if schema is True:
            return anything
        if schema is False:
            return nothing
        if not isinstance(schema, dict):
            raise UnreadableSchema("holds something that is no schema")
        self._document.count()
        checks = list(self._spelling(schema)) if fresh else []
        checks += self._values(schema)
        checks += self._in_place(schema, top)
        checks += self._object(schema, top)
        checks += self._array(schema)
        return every(checks, schema.get("nullable") is True)

    def _values(self, schema: dict[str, Json]) -> Iterable[Check]:
        if "type" in schema:
            yield of_type(schema["type"])
        if "const" in schema:
            yield one_of([schema["const"]])
        if "enum" in schema:
            yield one_of(_listed(schema, "enum"))

    def _in_place(self, schema: dict[str, Json], top: bool) -> Iterable[Check]:
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(schema.get(keyword), str):
                yield self._reference(schema[keyword], top)
        for part in _listed(schema, "allOf"):
            yield self.node(part, False, top)
        for keyword in _UNIONS:
            branches = _listed(schema, keyword)
            if keyword in schema:
                yield any_of([self.node(part, False, top) for part in branches], branches)
        if "if" in schema and ("then" in schema or "else" in schema):
            branches = [schema.get("then", True), schema.get("else", True)]
            yield any_of([self.node(part, False, top) for part in branches], branches)
        for key, part in _mapped(schema, "dependentSchemas").items():
            yield if_present(key, self.node(part, False, top))

    def _reference(self, reference: str, top: bool) -> Check:
        if not self._document.holds(reference):
            return anything
        target = self._document.resolve(reference)
        if target is None:
            said = f"cannot be checked: the schema refers to {shown(reference)}, which is missing"
            return lambda value, cost: ("", said)
        cell = self._referenced.get((id(target), top))
        if cell is None:
            # Filled after the fact: the schema may lead back to itself.
            cell = self._referenced[id(target), top] = []
            # And no header repeats what a reference leads to, only what properties alone do.
            headers, self._headers = self._headers, frozenset()
            cell.append(self.node(target, False, top))
            self._headers = headers
        return follow(cell)

    def _spelling(self, schema: dict[str, Json]) -> Iterable[Check]:
        names = self._document.property_names(schema)
        if names:
            yield spelled_like(names)

    def _object(self, schema: dict[str, Json], top: bool) -> Iterable[Check]:
        required = _listed(schema, "required")
        properties = {
            key: self._property(part, top, key not in required)
            for key, part in _mapped(schema, "properties").items()
        }
        patterns = [
            (safe_pattern(pattern), self.node(part, True, False))
            for pattern, part in _mapped(schema, "patternProperties").items()
        ]
        rest: Check = anything
        if "additionalProperties" in schema:
            rest = self.node(schema["additionalProperties"], True, False)
        if properties or patterns or rest is not anything:
            yield object_of(properties, patterns, rest)

    def _property(self, schema: Json, top: bool, optional: bool) -> Check:
        plain = isinstance(schema, dict) and schema.get("type") == "string"
        if optional and id(schema) in self._headers:
            schema = schema | {"type": [schema["type"], "null"]}
        check = self.node(schema, True, False)
        return check if plain or not top else not_json_in_a_string(check)

    def _array(self, schema: dict[str, Json]) -> Iterable[Check]:
        items, rest = schema.get("items", True), schema.get("additionalItems", True)
        first = _listed(schema, "prefixItems")
        if isinstance(items, list):
            first, items = items, rest
        heads = [self.node(part, True, False) for part in first]
        others = self.node(items, True, False)
        if heads or others is not anything:
            yield array_of(heads, others)


def _listed(schema: dict[str, Json], keyword: str) -> list[Json]:
    value = schema.get(keyword, [])
    if not isinstance(value, list):
        raise UnreadableSchema(f"has no list under {keyword}")
    return value


def _mapped(schema: dict[str, Json], keyword: str) -> dict[str, Json]:
    value = schema.get(keyword, {})
    if not isinstance(value, dict):
        raise UnreadableSchema(f"has no object under {keyword}")
    return value
