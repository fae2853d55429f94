"""What fails, what comes of it, and which test shows it: the rows of ``docs/failure-modes.md``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])


@dataclass(frozen=True)
class Fault:
    what: str
    callers: str
    """What they are told; a test compares it where it begins with a code."""
    trace: str
    recovery: str
    test: str
    module: str


ROWS: dict[str, list[Fault]] = {}
"""By who fails."""


def shows(who: str, what: str, callers: str, trace: str, recovery: str) -> Callable[[Test], Test]:
    """A test shows this row; one test may show several."""

    def note(test: Test) -> Test:
        row = Fault(what, callers, trace, recovery, test.__name__, test.__module__)
        ROWS.setdefault(who, []).insert(0, row)  # decorators are applied from below
        return test

    return note


def page() -> str:
    """The text of ``docs/failure-modes.md``, once the modules with the tests are loaded."""
    lines = [
        "# Failure modes",
        "",
        "What happens when something fails, as tests with real processes showed it. In every row",
        "these held too: each call that the server saw has a decision in the log from before it",
        "was sent, and an outcome; no budget or approval stayed held; the log proves itself; and",
        "calls that came afterwards passed without anybody doing anything but what the last column",
        "says. Codes are explained in [concepts.md](concepts.md). This page is written by",
        "`python -m tests.faults`.",
    ]
    for who in sorted(ROWS):
        lines += [
            "",
            f"## {who}",
            "",
            "| what fails | what callers are told | what the trace says | recovery | shown by |",
            "|---|---|---|---|---|",
        ]
        # By module, because which one was loaded first depends on who asks.
        lines += [
            f"| {one.what} | {one.callers} | {one.trace} | {one.recovery} | `{one.test}` |"
            for one in sorted(ROWS[who], key=lambda row: row.module)
        ]
    return "\n".join(lines) + "\n"
