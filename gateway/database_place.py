"""Where the database is: a file in the data directory, or a PostgreSQL server."""

from pathlib import Path
from typing import NewType
from urllib.parse import urlsplit

DATABASE = "gateway.db"
"""SQLite's file in a data directory."""

PostgresUrl = NewType("PostgresUrl", str)
"""``postgresql://…``, as libpq reads it; it may hold a password."""

Place = Path | PostgresUrl


def postgres_url(text: str) -> PostgresUrl:
    """Raises ValueError, which does not quote the text."""
    parts = urlsplit(text)
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise ValueError("must be postgresql://user:password@host:5432/database")
    return PostgresUrl(text)
