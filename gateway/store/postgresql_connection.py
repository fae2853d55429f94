"""A connection to PostgreSQL that notices when the server stands still.

A server whose machine is gone lets TCP's own limits pass. One that is frozen, or stopped by a
signal, does not: its kernel goes on acknowledging, and whoever waits for it would wait for ever.
"""

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from gateway.database_place import PostgresUrl

Result = TypeVar("Result")

SILENCE_SECONDS = 4.0
"""How long a statement runs before it is asked whether the server still lets anybody in."""
_DIAL_SECONDS = 3


def connect(url: PostgresUrl, **options: Any) -> "Heard":
    """As `psycopg.connect`."""
    connection = Heard.connect(url, **options)
    connection.url = url
    return connection


class Heard(psycopg.Connection[Any]):
    """One statement may take as long as the server's own limits say, while the server answers."""

    url = ""
    """Where it leads, to ask once more. Its own would be without the password."""

    def wait(self, gen: PQGen[Result], *args: Any, **kwargs: Any) -> Result:
        """As psycopg's own. Raises `psycopg.OperationalError`, and the connection is closed, when
        the server says nothing and makes no new connection either.
        """
        return super().wait(self._heard(gen), *args, **kwargs)

    def _heard(self, gen: PQGen[Result]) -> PQGen[Result]:
        silent_since = time.monotonic()
        try:
            wants = next(gen)
            while True:
                ready = yield wants
                if ready:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > SILENCE_SECONDS:
                    self._ask()
                    silent_since = time.monotonic()
                wants = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _ask(self) -> None:
        try:
            psycopg.connect(self.url, connect_timeout=_DIAL_SECONDS).close()
        except psycopg.errors.ConnectionTimeout:
            self.close()
            raise psycopg.OperationalError(
                "the database's server says nothing, and lets nobody in: it stands still"
            ) from None
        except psycopg.Error:
            return  # a refusal is an answer; a server that ends closes this connection itself
