"""The one clock: RFC 3339 in UTC with microseconds, never before a time it has shown."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


def rfc3339(seconds: float) -> str:
    """``2026-01-31T12:00:00.000000Z``; fixed width, so that times sort as text."""
    whole, micros = _split(seconds)
    return f"{_prefix(whole)}.{micros:06d}Z"


def _split(seconds: float) -> tuple[int, int]:
    return divmod(int(seconds * 1_000_000), 1_000_000)


def _prefix(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse(text: str) -> datetime:
    """Inverse of `rfc3339`; raises ValueError."""
    return datetime.fromisoformat(text)


def after(text: str, seconds: float) -> str:
    """The time ``seconds`` after another."""
    later = parse(text) + timedelta(seconds=seconds)
    return later.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_between(earlier: str, later: str) -> float:
    """Negative when `later` is the earlier one."""
    return (parse(later) - parse(earlier)).total_seconds()


class Clock:
    """Windows, expiries, `context.time` and records all read this one.

    The system's clock may be set back; then this one stands still until it is caught up.
    """

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._last = ""
        self._second = (-1, "")
        self._ahead = 0.0

    def now(self) -> str:
        whole, micros = _split(self._source() + self._ahead)
        known, prefix = self._second
        if whole != known:
            # Asked several times for each call, and a second's text is the same a thousand times.
            prefix = _prefix(whole)
            self._second = (whole, prefix)
        text = f"{prefix}.{micros:06d}Z"
        if text > self._last:
            self._last = text
        return self._last

    def set(self, seconds: float) -> None:
        """By another clock, which shows so many seconds since 1970 now."""
        self._ahead = seconds - self._source()

    def not_before(self, text: str) -> None:
        """At start: the last record's time."""
        if text > self._last:
            self._last = text
