"""What the gateway tells its operators while it runs: logs, on standard error.

Standard output is kept for what a script reads.
"""

import logging
import sys
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]


def log_to_stderr(level: Level) -> None:
    """Write events of `level` and above: for a person on a terminal, otherwise as JSON lines."""
    people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    # The libraries' own logs: their warnings matter to an operator, their chatter does not.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)


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
