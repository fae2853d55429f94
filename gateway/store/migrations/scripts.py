"""Runs the scripts in `versions` with Alembic, on a database of an earlier version."""

import alembic.command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gateway.store.migrations import FOLDER


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; without a connection for commands that make a revision."""
    made = Config()
    # A % in the path would be taken for an interpolation.
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def known() -> set[str]:
    """The revisions there are scripts for."""
    return {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}


def run(connection: Connection) -> None:
    """Run what the database lacks, in the caller's transaction."""
    alembic.command.upgrade(config(connection), "head")
