"""What agents and servers wrote, made visible; and times, numbers and sizes, made readable."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from markupsafe import Markup, escape

from gateway.registry.fired import Fired, Firing

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u034f\u2800\u00a0\u202f\u2007")
"""Characters with no glyph, whatever Unicode calls them."""
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")
"""Scripts with letters that pass for one another's (UTS 39)."""


def plain(value: object) -> Markup:
    """Text as HTML in which every character that cannot be seen, or that turns or hides others,
    stands as its escape; and letters of a foreign script inside a word, as one too.
    """
    text = str(value)
    foreign = _foreign(text)
    parts: list[str] = []
    for position, char in enumerate(text):
        if char in "\n\t":
            parts.append(char)
        elif unicodedata.category(char) in _INVISIBLE or char in _FILLERS:
            parts.append(_escape(char, "invisible character"))
        elif position in foreign:
            parts.append(str(escape(char)) + _escape(char, "letter of another script"))
        else:
            parts.append(str(escape(char)))
    return Markup("".join(parts))


def _escape(char: str, why: str) -> str:
    name = unicodedata.name(char, why)
    code = f"U+{ord(char):04X}"
    return f'<span class="pg-escape" title="{escape(name)}">{code}</span>'


def _foreign(text: str) -> frozenset[int]:
    """Positions of letters in words that mix confusable scripts, of all but the first script."""
    found: set[int] = set()
    start = 0
    for end in range(len(text) + 1):
        if end == len(text) or not (text[end].isalpha() or unicodedata.combining(text[end])):
            found |= _mixed(text, start, end)
            start = end + 1
    return frozenset(found)


def _mixed(text: str, start: int, end: int) -> set[int]:
    scripts: dict[int, str] = {}
    for position in range(start, end):
        if text[position].isascii():
            scripts[position] = "LATIN"
        else:
            name = unicodedata.name(text[position], "")
            script = name.partition(" ")[0]
            if script in _SCRIPTS:
                scripts[position] = script
    kinds = set(scripts.values())
    if len(kinds) < 2:
        return set()
    # A word of mostly Latin letters with one of another script is the usual disguise.
    usual = "LATIN" if "LATIN" in kinds else scripts[min(scripts)]
    return {position for position, script in scripts.items() if script != usual}


def rows(value: Any, path: str = "") -> list[tuple[str, str]]:
    """JSON as lines of path and value, nothing cut."""
    if isinstance(value, Mapping) and value:
        found: list[tuple[str, str]] = []
        for name, inner in value.items():
            found += rows(inner, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list) and value:
        found = []
        for number, inner in enumerate(value):
            found += rows(inner, f"{path}[{number}]")
        return found
    return [(path, value if isinstance(value, str) else orjson.dumps(value).decode())]


def pretty(value: object) -> str:
    """JSON, indented."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def when(value: str | None, style: str = "") -> Markup:
    """A time: UTC as it is kept, put into the viewer's zone by `dashboard.js`."""
    if not value:
        return Markup("—")
    shown = value[:19].replace("T", " ") + " UTC"
    return Markup('<time datetime="{}" data-style="{}" title="{}">{}</time>').format(
        value, style, shown, shown
    )


def micro(value: int | None) -> str:
    """Microseconds, short."""
    if value is None:
        return "—"
    if value < 1000:
        return f"{value} µs"
    if value < 1_000_000:
        return f"{value / 1000:.1f} ms"
    return f"{value / 1_000_000:.1f} s"


def thousands(value: int) -> str:
    return f"{value:,}"


def words(value: object) -> str:
    """``policy_denied`` as words."""
    return str(value).replace("_", " ").replace("-", " ")


_TONES = {
    "ALLOW": "green",
    "LOG_ONLY": "azure",
    "REQUIRE_APPROVAL": "orange",
    "DENY": "red",
    "PENDING": "orange",
    "APPROVED": "green",
    "CONSUMED": "azure",
    "DENIED": "red",
    "EXPIRED": "secondary",
    "LOW": "green",
    "MEDIUM": "azure",
    "HIGH": "orange",
    "CRITICAL": "red",
    "ACTIVE": "green",
    "ACCEPTED": "green",
    "PENDING_APPROVAL": "orange",
    "BLOCKED": "red",
    "CHANGED": "red",
    "SUSPECT": "red",
    "GONE": "secondary",
    "PAUSED": "orange",
    "SUSPENDED": "red",
    "REVOKED": "secondary",
    "OPEN": "orange",
    "CONFIRMED": "green",
    "REJECTED": "secondary",
    "ANCHORED": "green",
    "LOCAL_ONLY": "secondary",
    "SKIPPED": "secondary",
    "FAILED": "red",
    "GRANTED": "green",
    "LOST": "red",
}


def badge(value: object) -> Markup:
    """A state, an action or a risk as a coloured word."""
    if value in (None, ""):
        return Markup("—")
    tone = _TONES.get(str(value), "secondary")
    return Markup('<span class="badge pg-badge pg-{}">{}</span>').format(tone, plain(value))


def since(value: str, now: str) -> str:
    """How long ago, in one unit."""
    seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(value)).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def firing(fired: Fired, ids: Sequence[str]) -> tuple[str, Firing] | None:
    """Which of these policies fired last, and when."""
    found = [(one, fired.policies[one]) for one in ids if one in fired.policies]
    return max(found, key=lambda pair: pair[1].last, default=None)


def pairs(values: list[str]) -> list[tuple[str, str]]:
    """Each value as its own label."""
    return [(value, value.lower()) for value in values]


FILTERS: dict[str, Callable[..., object]] = {
    "plain": plain,
    "rows": rows,
    "pretty": pretty,
    "when": when,
    "micro": micro,
    "thousands": thousands,
    "words": words,
    "badge": badge,
    "pairs": pairs,
    "firing": firing,
    "since": since,
}
