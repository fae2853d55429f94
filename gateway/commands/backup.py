"""`gateway backup`: a consistent copy of the data directory."""

import json as json_text
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.data_dir.backup import BackupRefused, back_up
from gateway.data_dir.state import KEYS
from gateway.settings import Settings

app = typer.Typer()


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the copy.")],
    with_log_key: Annotated[
        bool,
        typer.Option("--with-log-key", help="Also the key that signs the log. Keep it apart."),
    ] = False,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Copy database, keys and policy bundles into a new folder, also while the gateway runs."""
    with told_plainly(*FORESEEN, BackupRefused):
        settings = Settings.read(data_dir=data_dir)
        if settings.database_url is not None:
            raise BackupRefused(
                "the database is on PostgreSQL: pg_dump --format=custom copies it, whatever runs; "
                f"copy {settings.data_dir / KEYS} too (docs/postgresql.md)"
            )
        copied = back_up(settings.data_dir, to.absolute(), log_key=with_log_key)
    if json:
        typer.echo(json_text.dumps(asdict(copied)))
        return
    typer.echo(f"{copied.records} records and {copied.bundles} policy bundles are in {to}.")
    if not with_log_key:
        typer.echo(f"keys/log.key is not: keep a copy of it elsewhere ({settings.data_dir}/keys).")
