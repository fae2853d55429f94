"""Logs go to standard error, and a log that cannot be written stops nothing."""

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from gateway.telemetry import log_to_stderr


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
