"""YAML is read in one way only, and each fault is said with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.configuration.source import DocumentFault, Fault, parse, spelled, write


def faults(text: str | bytes) -> list[tuple[int, str, str]]:
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DocumentFault) as caught:
        parse("a.yaml", raw)
    return [(fault.line, fault.field, fault.message) for fault in caught.value.faults]


def test_values_are_read_as_they_look() -> None:
    source = parse("a.yaml", b"a: [1, -2, true, null, ~, text, 'true']\nb: {c: ''}\nd:\n")
    assert source.value == {
        "a": [1, -2, True, None, None, "text", "true"],
        "b": {"c": ""},
        "d": None,
    }


@pytest.mark.parametrize(
    "text", ["on", "no", "0o17", "017", "1_000", "1:30", "2026-01-31T12:00:00Z", "1.5", "0x1f", "="]
)
def test_what_other_readers_take_for_something_else_stays_text(text: str) -> None:
    assert parse("a.yaml", f"a: {text}".encode()).value == {"a": text}


def test_lines_are_those_of_keys_and_items() -> None:
    source = parse("a.yaml", b"a:\n  - b: 1\n    c: 2\n\n  - d: 3\n")
    assert source.line(("a",)) == 1
    assert source.line(("a", 0, "c")) == 3
    assert source.line(("a", 1)) == 5
    # Of what is not there, the line of what is around it.
    assert source.line(("a", 1, "missing", 7)) == 5
    assert source.line(("missing",)) == 1
    assert spelled(("a", 1, "d")) == "a[1].d"


def test_a_key_twice_is_refused_with_both_lines() -> None:
    assert faults("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        (4, "b.c", "is there already, on line 3"),
        (5, "a", "is there already, on line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("a:\n  &x [*x]\n", 2, "aliases"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "tag"),
        ("a: 1\nb: !secret x\n", 2, "tag"),
        ("b: !!int x\n", 1, "tag"),
        ("b: !!bool x\n", 1, "tag"),
        ("a: 1\n1: 2\n", 2, "no text"),
        ("a: 1\n[b]: 2\n", 2, "no text"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "no YAML"),
        ("a: 1\n---\nb: 2\n", 2, "no YAML"),
        ("a: 1\nb: \x00\n", 2, "control character"),
        ("a: 1\nb: " + "[" * 50 + "]" * 50, 2, "nested too deep"),
        ("a: 1\nb: " + "[" * 5000 + "]" * 5000, 2, "nested too deep"),
    ],
)
def test_what_has_two_readings_is_refused(text: str, line: int, said: str) -> None:
    (found,) = faults(text)
    assert found[0] == line
    assert said in found[2]


def test_bytes_that_are_no_utf8_are_refused() -> None:
    assert faults(b"a: 1\nb: \xff\n") == [(2, "", "is not UTF-8")]


def test_an_empty_file_holds_nothing() -> None:
    assert parse("a.yaml", b"# nothing\n").value is None


def test_a_fault_is_told_in_one_line() -> None:
    assert str(Fault("a.yaml", 3, "rules[0].action", "is missing")) == (
        "a.yaml:3: rules[0].action: is missing"
    )


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.booleans(), st.integers(-99, 99))))
def test_what_is_written_is_what_is_read(values: dict[str, str | bool | int]) -> None:
    assert parse("a.yaml", write(values).encode()).value == values
