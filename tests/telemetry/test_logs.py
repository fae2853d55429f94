"""Logs go to standard error, and a log that cannot be written stops nothing."""

import ast
import io
import json
import logging
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy.exc import IntegrityError, OperationalError

from gateway.telemetry.logs import fault_text, log_to_stderr

PACKAGE = Path(__file__).parents[2] / "gateway"
WORDS_OF_OUR_OWN = {
    # What these say names no call: definitions of tools, policy, templates, nodes, who signs in.
    *("assembly.py", "scans.py"),
    *("anchors/flare.py", "anchors/setup.py", "dashboard/external_sign_in.py"),
    *("policy/activation.py", "policy/templates.py", "policy/watch.py"),
}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_an_event_is_a_line_of_json_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    log_to_stderr("info")
    structlog.get_logger("x").warning("something happened", call="trc_1")
    structlog.get_logger("x").debug("too small to tell")
    (line,) = stderr.getvalue().splitlines()
    told = json.loads(line)
    assert (told["event"], told["call"], told["level"]) == (
        "something happened",
        "trc_1",
        "warning",
    )


class Full(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Full(), closed()], ids=["full", "closed"])
def test_a_log_that_cannot_be_written_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    log = structlog.get_logger("y")
    log_to_stderr("info")
    monkeypatch.setattr(sys, "stderr", stream)
    log.error("nobody reads this")


def raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as caught:  # noqa: BLE001 - whatever it is
        return caught


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (UnicodeEncodeError("utf-8", "secret", 0, 1, "no"), "UnicodeEncodeError"),
        (KeyError("secret"), "KeyError"),
        (OSError(28, "No space left on device", "file"), "OSError: No space left on device"),
        (
            OperationalError("INSERT", {}, sqlite3.OperationalError("database is full")),
            "OperationalError: database is full",
        ),
        (IntegrityError("x", {}, sqlite3.IntegrityError("UNIQUE (secret)")), "IntegrityError"),
    ],
)
def test_a_fault_is_told_in_words_only_where_they_quote_nothing(
    fault: Exception, told: str
) -> None:
    assert fault_text(raised(fault)) == told


def test_a_fault_is_told_with_its_place() -> None:
    with pytest.raises(KeyError) as caught:
        log_to_stderr("secret")  # type: ignore[arg-type]
    told = fault_text(raised(caught.value))
    assert told.startswith("KeyError at gateway/telemetry/logs.py:")
    assert "secret" not in told


def test_what_libraries_log_is_a_line_of_json_that_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    log_to_stderr("info")
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: KeyError('secret')",
        exc_info=raised(KeyError("secret")),
    )
    told = json.loads(stderr.getvalue())
    assert (told["event"], told["logger"], told["fault"]) == (
        *("Task exception was never retrieved", "asyncio"),
        "KeyError",
    )


def test_no_module_logs_what_an_exception_says_in_its_own_words() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "_log"
        and any(_words(given.value) for given in node.keywords)
    }
    assert found <= WORDS_OF_OUR_OWN


def _words(value: ast.expr) -> bool:
    """Whether an exception, as they are called here, is made text."""
    made = [
        node
        for node in ast.walk(value)
        if isinstance(node, ast.FormattedValue)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "repr"))
    ]
    named = {ast.unparse(name) for text in made for name in ast.walk(text)}
    return not named.isdisjoint({"fault", "error", "errors", "exc"})
