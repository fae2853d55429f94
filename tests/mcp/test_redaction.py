"""What is taken out is out everywhere, and what is left is still what the tool promised."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.mcp.redaction import Asked, Unredactable, redact

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "ssn": {"type": "integer"},
        "mail": {"type": "string", "pattern": "@"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "ssn"],
}
ADA = {"name": "Ada", "ssn": 123456789, "mail": "ada@example.com", "tags": ["x", "vip-client"]}


def a_result(structured: Any = ADA, text: str | None = None) -> dict[str, Any]:
    copy = orjson.dumps(structured).decode() if text is None else text
    return {"content": [{"type": "text", "text": copy}], "structuredContent": structured}


def out(body: Any, *pointers: str, schema: Any = PERSON) -> Any:
    return redact(body, Asked(pointers, ()), schema, tool_known=True)


def test_a_pointer_takes_a_value_out_of_the_structure_and_of_the_text_that_repeats_it() -> None:
    left = out(a_result(), "/structuredContent/ssn")
    assert left["structuredContent"] == ADA | {"ssn": 0}
    assert orjson.loads(left["content"][0]["text"]) == left["structuredContent"]


def test_text_that_tells_it_in_words_is_blackened_too() -> None:
    told = 'Ada (ada@example.com, SSN 123456789) spent 1234567890 and "vip-client"'
    left = out(
        a_result(text=told), "/structuredContent/ssn", "/structuredContent/mail",
        "/structuredContent/tags/*",
    )  # fmt: skip
    text = left["content"][0]["text"]
    assert text == 'Ada ([redacted], SSN [redacted]) spent 1234567890 and "[redacted]"'
    Draft202012Validator(PERSON).validate(left["structuredContent"])


def test_an_optional_value_that_nothing_can_stand_for_is_left_out() -> None:
    left = out(a_result(), "/structuredContent/mail")
    assert "mail" not in left["structuredContent"]


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"ssn": {"const": 123456789}}, "required": ["ssn"]},
        {"$ref": "https://example.com/person.json"},
        {"type": "no type"},
        {"required": ["phone"]},
    ],
)
def test_what_cannot_be_fitted_to_the_schema_does_not_pass(schema: Any) -> None:
    with pytest.raises(Unredactable):
        out(a_result(), "/structuredContent/ssn", schema=schema)


def test_of_an_unknown_tool_no_structure_is_redacted() -> None:
    with pytest.raises(Unredactable):
        redact(a_result(), Asked(["/structuredContent/ssn"], ()), None, tool_known=False)
    text = {"content": [{"type": "text", "text": "secret"}]}
    left = redact(text, Asked(["/content/*/text"], ()), None, tool_known=False)
    assert left["content"] == [{"type": "text", "text": "[redacted]"}]


def test_pointers_are_those_of_the_rfc_and_a_star_is_every_member() -> None:
    body = {"a/b": {"m~n": "one"}, "list": [{"k": "two"}, {"k": "three"}], "keep": "four"}
    left = out(body, "/a~1b/m~0n", "/list/*/k", "/not/there", schema=None)
    assert left == {
        "a/b": {"m~n": "[redacted]"},
        "list": [{"k": "[redacted]"}, {"k": "[redacted]"}],
        "keep": "four",
    }


def test_new_texts_stand_where_the_patterns_matched() -> None:
    asked = Asked(
        (), [(("structuredContent", "name"), "A[redacted]"), (("structuredContent", "ssn"), "x")]
    )
    left = redact(a_result(), asked, PERSON, tool_known=True)
    assert left["structuredContent"] == ADA | {"name": "A[redacted]", "ssn": 0}


def test_nobody_takes_out_the_whole_message_or_what_is_not_there() -> None:
    with pytest.raises(Unredactable):
        out("secret", "")
    with pytest.raises(Unredactable):
        redact({}, Asked((), [(("a", 0), "x")]), None, tool_known=True)


def test_what_stands_for_one_is_not_searched_for_the_next() -> None:
    body = a_result({"a": "dac", "b": "xdacx"}, "xdacx and dac")
    left = out(body, "/structuredContent/a", "/structuredContent/b", schema=None)
    assert left["content"] == [{"type": "text", "text": "[redacted] and [redacted]"}]


_leaf = st.one_of(st.text("abcdef-", min_size=3, max_size=9), st.integers(1000, 9999))
_structure = st.dictionaries(st.text("klmn", min_size=1, max_size=3), _leaf, min_size=1, max_size=5)


@given(_structure, st.data())
def test_whatever_is_taken_out_stands_nowhere_in_what_is_left(
    structure: dict[str, Any], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(structure)))
    secret = orjson.dumps(structure[key]).decode().strip('"')
    if any(secret in orjson.dumps(v).decode() for k, v in structure.items() if k != key):
        return
    told = f"The {key} is {secret}."
    body = a_result(structure, told)
    body["content"].append({"type": "text", "text": orjson.dumps(structure).decode()})
    left = out(body, f"/structuredContent/{key}", schema=None)
    # A secret may be a part of what stands for it.
    assert secret not in orjson.dumps(left).decode().replace("[redacted]", "#")
