"""The database's schema, version by version; found from a source tree and from a wheel alike."""

import importlib
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    inspect,
    select,
)

from gateway.store import postgresql
from gateway.store.database import is_postgresql, take_turn
from gateway.store.tables import metadata

FOLDER = Path(__file__).parent

_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


class SchemaTooNew(Exception):
    """The database was made by a later gateway; going back would lose what it wrote."""


def newest() -> str:
    """The schema that `gateway.store.tables` describes: each script's name begins with its own."""
    return max(script.name[:4] for script in (FOLDER / "versions").glob("[0-9]*.py"))


def upgrade(engine: Engine) -> None:
    """Bring the database to the newest schema: all of it, or, on a fault, none.

    Takes the writing engine, before the writer starts. Raises `SchemaTooNew`.
    """
    with engine.connect() as connection, connection.begin():
        if is_postgresql(connection):
            postgresql.patient(connection)
            # Of gateways that start at once one makes the tables, and the others find them made.
            take_turn(connection, alone=True)
        current, last = revision(connection), newest()
        if current == last:
            return
        if current is None and not inspect(connection).get_table_names():
            make_newest(connection)
            return
        # Alembic is a sixth of what a start imports, and only an older database needs it.
        scripts = importlib.import_module("gateway.store.migrations.scripts")
        if current is not None and current not in scripts.known():
            raise SchemaTooNew(
                f"the database has schema {current}, which this gateway does not know; "
                "run the gateway that made it, or restore the backup from before"
            )
        scripts.run(connection)


def make_newest(connection: Connection) -> None:
    """All tables, in an empty database: the same that the scripts make one after the other, which
    a test compares.
    """
    metadata.create_all(connection)
    _version.create(connection)
    connection.execute(_version.insert().values(version_num=newest()))


def revision(connection: Connection) -> str | None:
    """The schema that the database has; None for an empty one."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))
