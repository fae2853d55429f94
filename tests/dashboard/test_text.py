"""What others wrote, made visible."""

import pytest

from gateway.dashboard.text import plain, rows


@pytest.mark.parametrize(
    "char", ["\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\x00", "\u3164", "\u00ad", "\u2028"]
)
def test_what_cannot_be_seen_or_turns_text_stands_as_its_escape(char: str) -> None:
    shown = plain(f"a{char}b")
    assert f"U+{ord(char):04X}" in shown
    assert char not in shown


def test_a_letter_of_another_script_inside_a_word_is_marked() -> None:
    assert "U+0430" in plain("p\u0430ypal")
    assert "U+03BF" in plain("g\u03bfogle.com")


@pytest.mark.parametrize("text", ["привет", "καλημέρα", "日本語 text", "naïve café", "one\ttwo\n"])
def test_text_of_one_script_is_shown_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_mark_up_is_text() -> None:
    assert plain("<img src=x>") == "&lt;img src=x&gt;"


def test_arguments_are_lines_and_nothing_is_cut() -> None:
    value = {"to": ["a", "b"], "empty": {}, "deep": {"n": 1, "text": "x" * 5000}}
    assert rows(value) == [
        ("to[0]", "a"),
        ("to[1]", "b"),
        ("empty", "{}"),
        ("deep.n", "1"),
        ("deep.text", "x" * 5000),
    ]
