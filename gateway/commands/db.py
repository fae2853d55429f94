"""`gateway db`: from SQLite to PostgreSQL, and from one version's schema to the next."""

import json as json_text
import sys
import time
from dataclasses import asdict

import typer

from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.data_dir.database_copy import CopyRefused, move
from gateway.data_dir.state import migrate
from gateway.settings import Settings

app = typer.Typer()
db = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(db, name="db")


@db.command("copy")
def copy(data_dir: DataDir = None, json: AsJson = False) -> None:
    """Move a stopped gateway's SQLite database to the empty PostgreSQL of GATEWAY_DATABASE_URL.

    Compares every row and each log's root with what was read; a copy that is cut short leaves the
    target empty. `gateway serve` then goes on there, with the same keys and the same log.
    """
    with told_plainly(*FORESEEN, CopyRefused):
        settings = Settings.read(data_dir=data_dir)
        place = settings.database
        if not isinstance(place, str):
            raise CopyRefused("set GATEWAY_DATABASE_URL to the PostgreSQL database to copy to")
        moved = move(settings.data_dir, place, _Progress().show)
    if json:
        typer.echo(json_text.dumps(asdict(moved)))
        return
    typer.echo(f"{moved.rows:,} rows in {moved.tables} tables are copied and compared.")
    for head in moved.heads:
        typer.echo(f"{head.origin}: {head.size:,} records, root {head.root}")
    typer.echo(f"The file is {settings.data_dir / moved.left} now; start with `gateway serve`.")


@db.command("upgrade")
def upgrade(data_dir: DataDir = None, json: AsJson = False) -> None:
    """Bring the database to this version's schema, as the start of `gateway serve` does.

    For a step of its own before new gateways start: those that run on PostgreSQL go on with it.
    """
    with told_plainly(*FORESEEN):
        settings = Settings.read(data_dir=data_dir)
        before, now = migrate(settings.data_dir, settings.database)
    if json:
        typer.echo(json_text.dumps({"before": before, "now": now}))
    elif before == now:
        typer.echo(f"The database has schema {now} already.")
    else:
        typer.echo(f"The database has schema {now}; it had {before}.")


class _Progress:
    """One line on standard error, once a second, where somebody watches."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1

    def show(self, table: str, rows: int) -> None:
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            self._next = time.monotonic() + 1
            typer.echo(f"\r{table}: {rows:,} rows", err=True, nl=False)
