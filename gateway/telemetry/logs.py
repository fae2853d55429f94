"""What the gateway tells its operators while it runs: logs, on standard error.

Standard output is kept for what a script reads. No line holds what a call carried: an exception's
own words may quote it, so a fault is told by `fault_text` and in no other way.
"""

import logging
import sqlite3
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]

_PACKAGE = Path(__file__).parent.parent


def fault_text(fault: BaseException) -> str:
    """The fault's kind and place, and its words where they are the system's or the database's.

    A `UnicodeEncodeError` quotes the whole text that it met, a `KeyError` the key, a validator the
    value: of those the kind and the place must do.
    """
    orig = getattr(fault, "orig", None)  # what a driver raised, in an exception of SQLAlchemy's
    words = ""
    if isinstance(fault, OSError):
        words = f": {fault.strerror}" if fault.strerror else ""
    elif isinstance(orig, sqlite3.OperationalError):
        words = f": {orig}"
    return f"{type(fault).__name__}{_place(fault)}{words}"


def _place(fault: BaseException) -> str:
    for frame, line in reversed(list(traceback.walk_tb(fault.__traceback__))):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            return f" at {path.relative_to(_PACKAGE.parent)}:{line}"
    return ""


def log_to_stderr(level: Level) -> None:
    """Write events of `level` and above: for a person on a terminal, otherwise as JSON lines."""
    people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _tell_fault,
            structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    # The libraries' own logs: their warnings matter to an operator, their chatter does not.
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)


def _tell_fault(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """``exc_info`` becomes text that quotes nothing."""
    fault = event.pop("exc_info", None)
    if fault:
        fault = fault if isinstance(fault, BaseException) else sys.exc_info()[1]
    if fault:
        event["fault"] = fault_text(fault)
    return event


class _Libraries(logging.Handler):
    """The libraries' records as events of ours: one line each, and faults without their words."""

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        # asyncio writes the repr of the exception and its task below its first line.
        said = record.getMessage().partition("\n")[0][:500]
        log = structlog.get_logger(record.name)
        log.log(record.levelno, said, logger=record.name, exc_info=fault)


class _Lines:
    """Writes lines to whatever standard error is now, and never fails.

    A log that nobody reads any more, a full disk or a closed pipe must not stop a call, let alone
    the thread that writes the trace.
    """

    def msg(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return

    log = debug = info = warning = error = critical = exception = fatal = msg
