"""Two gateways on one PostgreSQL database, in one process: each with its writer, log and memory."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.database_place import PostgresUrl
from tests.builders import World, a_state


@contextmanager
def a_pair(folder: Path, place: PostgresUrl) -> Iterator[tuple[World, World]]:
    """They share the keys, as the gateways of one deployment do."""
    with a_state(folder / "one", place) as one:
        if not (folder / "two").exists():
            shutil.copytree(folder / "one" / "keys", folder / "two" / "keys")
        with a_state(folder / "two", place) as two:
            yield one, two
