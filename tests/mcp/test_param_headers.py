"""A header that repeats an argument says what the argument says, or the call is refused."""

import base64
from typing import Any

import orjson
import pytest

from gateway.mcp.param_headers import compile_headers
from gateway.mcp.strictness import shown
from tests.mcp.test_arguments import parsed


def annotated(kind: str, name: object = "Value") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": name}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


SCHEMA = an_object(
    region=annotated("string", "Region"),
    priority=annotated("integer", "Priority"),
    urgent=annotated("boolean", "Urgent"),
    query={"type": "string"},
    where=an_object(zone=annotated("string", "Zone-Name")),
)


def fault(arguments: bytes, **headers: str | bytes) -> str | None:
    check = compile_headers(SCHEMA)
    assert check is not None
    sent = [
        (
            b"mcp-param-" + name.replace("_", "-").encode(),
            value if isinstance(value, bytes) else value.encode("latin-1"),
        )
        for name, value in headers.items()
    ]
    return check(parsed(arguments), sent)


def coded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        (b"{}", {}),
        (b'{"query": "x"}', {"other": "passes"}),
        (b'{"region": null}', {}),
        (b'{"region": "us-west1"}', {"region": "us-west1"}),
        (b'{"region": "us-west1"}', {"region": coded("us-west1")}),
        ('{"region": "Zürich"}'.encode(), {"region": coded("Zürich")}),
        (b'{"region": ""}', {"region": ""}),
        (b'{"priority": 42}', {"priority": "42"}),
        (b'{"priority": 42}', {"priority": "42.0"}),
        (b'{"priority": 42.0}', {"priority": "42"}),
        (b'{"priority": 1e2}', {"priority": "100.0"}),
        (b'{"priority": -9007199254740993}', {"priority": "-9007199254740993"}),
        (b'{"urgent": true}', {"urgent": "true"}),
        (b'{"urgent": false}', {"urgent": "false"}),
        (b'{"where": {"zone": "a"}}', {"zone_name": "a"}),
        (b'{"where": {}}', {}),
    ],
)
def test_headers_that_repeat_the_arguments_pass(
    arguments: bytes, headers: dict[str, str | bytes]
) -> None:
    assert fault(arguments, **headers) is None


@pytest.mark.parametrize(
    ("arguments", "headers", "said"),
    [
        (b'{"region": "us-west1"}', {}, "missing"),
        (b'{"where": {"zone": "a"}}', {}, "missing"),
        (b'{"region": "us-west1"}', {"region": "us-east1"}, "is not"),
        (b'{"region": "us-west1"}', {"region": "US-WEST1"}, "is not"),
        (b'{"region": "us-west1"}', {"region": coded("us-east1")}, "is not"),
        (b'{"region": "us-west1"}', {"region": "=?base64?dXMtd2VzdDE?="}, "is not"),
        (b'{"region": "a"}', {"region": "=?base64?YR==?="}, "is not"),
        (b'{"region": "a"}', {"region": "=?base64?_w==?="}, "is not"),
        ('{"region": "Zürich"}'.encode(), {"region": "Zürich".encode()}, "is not"),
        (b"{}", {"region": "us-west1"}, "is not"),
        (b'{"region": null}', {"region": "null"}, "is not"),
        (b'{"priority": 42}', {"priority": "43"}, "is not"),
        (b'{"priority": 42}', {"priority": "4.2e1"}, "is not"),
        (b'{"priority": 42}', {"priority": "+42"}, "is not"),
        (b'{"priority": 9007199254740993}', {"priority": "9007199254740992"}, "is not"),
        (b'{"priority": 0}', {"priority": "0" * 200}, "is not"),
        (b'{"priority": true}', {"priority": "1"}, "is not"),
        (b'{"urgent": true}', {"urgent": "True"}, "is not"),
        (b'{"region": {"a": 1}}', {"region": "{}"}, "is not"),
    ],
)
def test_headers_that_say_something_else_are_named(
    arguments: bytes, headers: dict[str, str | bytes], said: str
) -> None:
    told = fault(arguments, **headers)
    assert told is not None
    assert said in told
    assert "us-west1" not in told


def test_a_header_that_stands_twice_is_refused_whatever_it_says() -> None:
    check = compile_headers(SCHEMA)
    assert check is not None
    told = check({"region": "a"}, [(b"mcp-param-region", b"a"), (b"mcp-param-region", b"a")])
    assert told is not None
    assert "more than once" in told


@pytest.mark.parametrize(
    "schema",
    [
        None,
        True,
        an_object(a={"type": "string"}),
        an_object(a={"type": "string", "default": {"x-mcp-header": "A"}}),
        {"type": "object", "properties": {"x-mcp-header": {"type": "string"}}},
    ],
)
def test_a_schema_that_names_no_header_asks_for_no_check(schema: Any) -> None:
    assert compile_headers(schema) is None


@pytest.mark.parametrize(
    "wrong",
    [
        annotated("number", "B"),
        annotated("object", "B"),
        {"x-mcp-header": "B"},
        {"type": ["string", "null"], "x-mcp-header": "B"},
        annotated("string", 5),
        annotated("string", ""),
        annotated("string", "B C"),
        annotated("string", "B\r\nC"),
        annotated("string", "VALUE"),
        {"type": "array", "items": annotated("string", "B")},
        {"anyOf": [annotated("string", "B")]},
        {"patternProperties": {"x": annotated("string", "B")}},
    ],
)
def test_one_annotation_that_is_not_valid_makes_all_void(wrong: dict[str, Any]) -> None:
    assert compile_headers(an_object(a=annotated("string"))) is not None
    assert compile_headers(an_object(a=annotated("string"), b=wrong)) is None


def test_a_schema_of_any_depth_is_read() -> None:
    deep: dict[str, Any] = annotated("string")
    for _ in range(5_000):
        deep = an_object(a=deep)
    assert compile_headers(deep) is not None


def test_the_sdk_agrees_on_what_is_valid() -> None:
    inbound = pytest.importorskip("mcp.shared.inbound")
    schemas = [SCHEMA, an_object(a=annotated("string"), b=annotated("number", "B"))]
    for schema in schemas:
        voided = inbound.find_invalid_x_mcp_header(schema) is not None
        assert (compile_headers(schema) is None) == voided, shown(orjson.dumps(schema).decode())
