"""The database's schema, version by version; found from a source tree and from a wheel alike."""

from pathlib import Path

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine


class SchemaTooNew(Exception):
    """The database was made by a later gateway; going back would lose what it wrote."""


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; without a connection for commands that make a revision."""
    made = Config()
    # A % in the path would be taken for an interpolation.
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: Engine) -> None:
    """Bring the database to the newest schema: all of it, or, on a fault, none.

    Takes the writing engine, before the writer starts. Raises `SchemaTooNew`.
    """
    with engine.connect() as connection, connection.begin():
        current = revision(connection)
        known = {
            script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()
        }
        if current is not None and current not in known:
            raise SchemaTooNew(
                f"the database has schema {current}, which this gateway does not know; "
                "run the gateway that made it, or restore the backup from before"
            )
        alembic.command.upgrade(config(connection), "head")


def revision(connection: Connection) -> str | None:
    """The schema that the database has; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()
