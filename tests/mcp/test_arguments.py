"""A tool's schema as a check of types."""

import sys
import time
from typing import Any

import jiter
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.arguments import compile_schema


def parsed(text: str | bytes) -> Any:
    raw = text.encode() if isinstance(text, str) else text
    return jiter.from_json(raw, float_mode="lossless-float")


def fault_of(schema: Any, arguments: str) -> str | None:
    return compile_schema(schema)(parsed(arguments))


def of_property(schema: Any, value: str) -> str | None:
    """What is wrong with ``value`` where ``schema`` is that of the property ``a``."""
    return fault_of({"type": "object", "properties": {"a": schema}}, f'{{"a":{value}}}')


VALUES = {
    "string": '"x"',
    "integer": "1",
    "number": "1.5",
    "boolean": "true",
    "null": "null",
    "array": "[]",
    "object": "{}",
}


SPOKEN = {"string": "a string", "boolean": "a boolean", "integer": "an integer"}


@pytest.mark.parametrize("stated", VALUES)
@pytest.mark.parametrize("given", VALUES)
def test_a_type_takes_its_own_values_only(stated: str, given: str) -> None:
    fits = stated == given or (stated, given) == ("number", "integer")
    fault = of_property({"type": stated}, VALUES[given])
    assert (fault is None) == fits
    assert fault is None or fault.startswith("arguments.a must be ")


@pytest.mark.parametrize("kind", ["string", "boolean", "integer"])
def test_null_is_not_given_where_a_header_would_repeat_what_is_not_required(kind: str) -> None:
    named = {"type": kind, "x-mcp-header": "A"}
    assert of_property(named, "null") is None
    assert (of_property(named, '"null"') is None) == (kind == "string")
    needed = {"type": "object", "properties": {"a": named}, "required": ["a"]}
    assert fault_of(needed, '{"a":null}') == f"arguments.a must be {SPOKEN[kind]}, got null"


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"type": "string", "x-mcp-header": "no token"}},
        {"a": {"type": "number", "x-mcp-header": "A"}},
        {"a": {"type": "string", "enum": ["x"], "x-mcp-header": "A"}},
        {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"x-mcp-header": "B"}},
        {
            "a": {"type": "string", "x-mcp-header": "A"},
            "b": {"type": "string", "x-mcp-header": "a"},
        },
        {
            "a": {"type": "string"},
            "b": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}},
        },
    ],
)
def test_null_is_a_value_like_another_where_no_header_is_in_force(
    properties: dict[str, Any],
) -> None:
    assert fault_of({"type": "object", "properties": properties}, '{"a":null}') is not None


def test_null_is_not_given_in_an_object_of_the_arguments_too() -> None:
    inner = {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Z"}}}
    outer = {
        "type": "object",
        "properties": {"where": inner, "like": {"$ref": "#/properties/where/properties/zone"}},
    }
    assert fault_of(outer, '{"where":{"zone":null}}') is None
    assert fault_of(outer, '{"like":null}') == "arguments.like must be a string, got null"


@pytest.mark.parametrize("reference", ["#", "#/$defs/again"])
def test_null_is_a_value_where_a_reference_leads_back_to_what_a_header_repeats(
    reference: str,
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "zone": {"type": "string", "x-mcp-header": "Z"},
            "inner": {"$ref": reference},
            "list": {"type": "array", "items": {"$ref": reference}},
        },
        "$defs": {"again": {"$ref": "#"}},
    }
    said = "must be a string, got null"
    assert fault_of(schema, '{"zone":null,"inner":{"zone":"a"}}') is None
    assert fault_of(schema, '{"inner":{"zone":null}}') == f"arguments.inner.zone {said}"
    assert fault_of(schema, '{"list":[{"zone":null}]}') == f"arguments.list[0].zone {said}"


def test_the_sentence_says_where_what_and_what_else() -> None:
    schema = {"type": "array", "items": {"type": "object", "properties": {"b c": {"type": "null"}}}}
    assert of_property(schema, '"x"') == "arguments.a must be an array, got a string"
    assert of_property(schema, '[{},{"b c":1}]') == (
        "arguments.a[1]['b c'] must be null, got an integer"
    )
    listed = {"type": ["string", "integer"]}
    assert of_property(listed, "{}") == "arguments.a must be a string or an integer, got an object"
    union = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert of_property(union, "1") == "arguments.a must be a string or null, got an integer"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, "1.0", "1.5"),
        ({"type": "integer"}, "1e2", "1e300"),
        ({"type": "integer"}, "-9007199254740992.0", "9007199254740994.0"),
        ({"type": ["integer", "number"]}, "1.5", '"1"'),
        ({"type": "integer", "nullable": True}, "null", '"1"'),
        ({"type": ["string", "null"]}, "null", "1"),
        ({"const": 1}, "1.0", "true"),
        ({"const": {"b": [1, "x"]}}, '{"b":[1.0,"x"]}', '{"b":[true,"x"]}'),
        ({"enum": ["x", 2, None, [3]]}, "[3]", "[4]"),
        ({"enum": ["x", 2, None, [3]]}, "2.0", '"2"'),
        ({"enum": [0]}, "0", "false"),
        ({"items": {"type": "string"}}, '["x"]', '["x",1]'),
        ({"prefixItems": [{"type": "string"}], "items": False}, '["x"]', '["x",1]'),
        (
            {"items": [{"type": "string"}], "additionalItems": {"type": "null"}},
            '["x",null]',
            '["x",1]',
        ),
        ({"properties": {"b": {"type": "string"}}}, '{"c":1}', '{"b":1}'),
        ({"additionalProperties": False}, "{}", '{"b":1}'),
        ({"additionalProperties": {"type": "string"}}, '{"b":"x"}', '{"b":1}'),
        (
            {"properties": {"b": {}}, "additionalProperties": {"type": "string"}},
            '{"b":1,"c":"x"}',
            '{"b":1,"c":1}',
        ),
        (
            {"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False},
            '{"x-b":"y"}',
            '{"x-b":1}',
        ),
        ({"patternProperties": {"^x-": {"type": "string"}}}, '{"y":1}', '{"x-":1}'),
        (
            {"properties": {"xb": {}}, "patternProperties": {"^x": {"type": "string"}}},
            '{"xb":"y"}',
            '{"xb":1}',
        ),
        (
            {
                "properties": {"b": {"type": "null"}},
                "patternProperties": {"^x": {}},
                "additionalProperties": False,
            },
            '{"b":null,"x":1}',
            '{"c":null}',
        ),
        (
            {"patternProperties": {"^(x+)+$": {"type": "string"}}, "additionalProperties": False},
            '{"xx":"y"}',
            '{"xx":1}',
        ),
        ({"allOf": [{"type": "object"}, {"properties": {"b": {"type": "null"}}}]}, "{}", '{"b":1}'),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "1", '"1"'),
        ({"if": {"type": "string"}, "then": {"const": "x"}, "else": {"type": "null"}}, "null", "1"),
        (
            {"dependentSchemas": {"b": {"properties": {"c": {"type": "null"}}}}},
            '{"c":1}',
            '{"b":1,"c":1}',
        ),
        ({"type": "object", "properties": {"b": False}}, "{}", '{"b":1}'),
    ],
)
def test_each_keyword_that_tells_types(schema: Any, good: str, bad: str) -> None:
    assert of_property(schema, good) is None
    assert of_property(schema, bad) is not None


def test_references_within_the_document_are_followed() -> None:
    schema = {
        "$id": "https://example.org/tool",
        "$ref": "#/$defs/arguments",
        "$defs": {
            "arguments": {
                "type": "object",
                "properties": {
                    "tree": {"$ref": "#/$defs/a~1tree%20b"},
                    "named": {"$ref": "#name"},
                    "whole": {"$ref": "https://example.org/tool#/$defs/text"},
                    "own": {"$ref": "https://example.org/own"},
                },
            },
            "a/tree b": {
                "type": "object",
                "properties": {"below": {"type": "array", "items": {"$ref": "#/$defs/a~1tree b"}}},
                "additionalProperties": False,
            },
            "text": {"type": "string", "$anchor": "name"},
            "own": {"$id": "https://example.org/own", "type": "string"},
        },
    }
    assert fault_of(schema, '{"tree":{"below":[{"below":[{}]}]},"named":"x"}') is None
    assert fault_of(schema, '{"tree":{"below":[{"below":[1]}]}}') == (
        "arguments.tree.below[0].below[0] must be an object, got an integer"
    )
    for name in ("named", "whole", "own"):
        assert fault_of(schema, f'{{"{name}":1}}') == (
            f"arguments.{name} must be a string, got an integer"
        )


def test_a_reference_out_of_the_document_says_nothing_and_loosens_nothing() -> None:
    remote = "https://example.org/schema.json"
    assert of_property({"$ref": remote}, "1") is None
    assert of_property({"$ref": remote, "type": "string"}, "1") is not None


@pytest.mark.parametrize("reference", ["#/$defs/none", "#none", "#/properties/a/0"])
def test_a_reference_that_dangles_allows_nothing(reference: str) -> None:
    fault = of_property({"$ref": reference}, "1")
    assert fault is not None
    assert "missing" in fault


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        "object",
        {"type": "text"},
        {"type": ["string", 5]},
        {"properties": {"a": 1}},
        {"properties": []},
        {"anyOf": {}},
        {"enum": "x"},
        {"allOf": [None]},
    ],
)
def test_a_schema_that_cannot_be_read_allows_nothing(schema: Any) -> None:
    fault = fault_of(schema, "{}")
    assert fault is not None
    assert fault.startswith("arguments cannot be checked: the tool's inputSchema ")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}] * 9}}},
        {
            "properties": {"a": {"anyOf": [{"$ref": "#"}] * 9, "type": "object"}},
            "additionalProperties": False,
        },
    ],
)
def test_a_schema_that_leads_to_itself_ends_in_a_refusal(schema: Any) -> None:
    arguments = parsed('{"a":' * 40 + '{"b":1}' + "}" * 40)
    start = time.perf_counter()
    assert compile_schema(schema)(arguments) is not None
    assert time.perf_counter() - start < 5


def test_a_choice_of_nothing_allows_nothing() -> None:
    assert of_property({"anyOf": []}, "1") is not None
    assert of_property({"enum": []}, "1") is not None


def test_a_deep_or_wide_schema_is_refused_as_such() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)  # a library in this process may have raised it
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"items": deep}
    try:
        assert "deep" in str(compile_schema(deep)({}))
    finally:
        sys.setrecursionlimit(limit)
    wide: dict[str, Any] = {"properties": {f"p{index}": {} for index in range(40_000)}}
    assert "more than" in str(compile_schema(wide)({}))


def test_properties_that_join_many_schemas_are_counted_too() -> None:
    joined: dict[str, Any] = {"allOf": [{"properties": {f"p{index}": {}}} for index in range(500)]}
    names = {f"a{index}": {"$ref": "#/$defs/joined"} for index in range(500)}
    schema = {"properties": names, "$defs": {"joined": joined}}
    assert "more than" in str(compile_schema(schema)({}))


def test_a_pattern_that_could_take_for_ever_is_not_run() -> None:
    schema = {"patternProperties": {"^(a+)+$": {"type": "string"}}}
    start = time.perf_counter()
    assert compile_schema(schema)({"a" * 40 + "b": "c"}) is None
    assert compile_schema({"patternProperties": {"a*a*a*a*$": {}}})({"a" * 250 + "b": 1}) is None
    assert time.perf_counter() - start < 5


def test_large_arguments_are_checked_up_to_a_bound() -> None:
    check = compile_schema({"properties": {"a": {"items": {"type": "integer"}}}})
    assert check({"a": [1] * 90_000}) is None
    assert "too large" in str(check({"a": [1] * 200_000}))


def test_a_key_that_only_folds_to_a_property_is_refused_at_each_level() -> None:
    inner = {"type": "object", "properties": {"id": {}}}
    schema = {
        "properties": {"name": {}, "list": {"items": {"$ref": "#/$defs/i"}}},
        "$defs": {"i": inner},
    }
    assert fault_of(schema, '{"Name":1}') == (
        "arguments.Name is not a property of the schema; 'name' is"
    )
    assert fault_of(schema, '{"list":[{"ID":1}]}') == (
        "arguments.list[0].ID is not a property of the schema; 'id' is"
    )
    assert fault_of(schema, '{"name\\u0000":1}') is not None
    assert fault_of(schema, '{"\\u217cist":1}') is not None  # the Roman numeral fifty
    assert fault_of(schema, '{"other":1,"Name2":2}') is None


def test_properties_of_all_branches_are_known_where_they_join() -> None:
    schema = {
        "allOf": [{"properties": {"id": {}}}, {"properties": {"ID": {"type": "null"}}}],
        "anyOf": [{"type": "object"}, {"properties": {"name": {}}}],
    }
    assert fault_of(schema, '{"ID":null}') is None
    assert fault_of(schema, '{"Id":null}') is not None
    assert fault_of(schema, '{"Name":null}') is not None
    above = {"properties": {"ID": {}}, "anyOf": [{"properties": {"id": {}}}]}
    assert fault_of(above, '{"ID":1,"id":2}') is None


@pytest.mark.parametrize(
    ("schema", "value", "refused"),
    [
        ({"type": "string"}, '"[1]"', False),
        ({"type": ["string", "null"]}, '"null"', True),
        ({"type": ["string", "null"]}, '"[1]"', False),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, '" [1]"', True),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, '"[1"', False),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, '"{}"', False),
        ({}, '"{\\"a\\":1}"', True),
        ({}, '"1"', False),
        ({}, '"name"', False),
        ({"properties": {"b": {}}}, '{"b":"[1]"}', False),
    ],
)
def test_a_string_in_place_of_the_json_it_holds_is_refused(
    schema: Any, value: str, refused: bool
) -> None:
    assert (of_property(schema, value) is not None) == refused


def test_strings_that_hold_json_are_found_behind_a_reference() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {}}}}}
    assert fault_of(schema, '{"b":"[]"}') is not None


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
KEYWORDS = ("type", "properties", "items", "anyOf", "allOf", "$ref", "enum", "patternProperties")
SCHEMAS = st.recursive(
    st.booleans() | st.fixed_dictionaries({"type": st.sampled_from(list(VALUES))}),
    lambda inner: (
        st.dictionaries(st.sampled_from(KEYWORDS), inner | st.lists(inner) | JSON_VALUES)
        | st.fixed_dictionaries({"properties": st.dictionaries(st.text(max_size=2), inner)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3), "$ref": st.just("#")})
    ),
    max_leaves=8,
)


@given(schema=SCHEMAS | JSON_VALUES, arguments=st.dictionaries(st.text(max_size=3), JSON_VALUES))
def test_any_schema_gives_a_sentence_or_nothing(schema: Any, arguments: dict[str, Any]) -> None:
    fault = compile_schema(schema)(parsed(orjson.dumps(arguments)))
    assert fault is None or fault.startswith("arguments")
