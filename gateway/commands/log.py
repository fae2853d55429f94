"""`gateway log`: how large it is, and its old records on their way to cold storage."""

import json as json_text
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from sqlalchemy import Connection, func, select

from gateway.assembly import archive_of
from gateway.cold import reading
from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.data_dir.state import NotInitialised, is_made, open_by
from gateway.settings import Settings, SettingsFault
from gateway.store import tables
from gateway.store.database import reading_engine
from gateway.store.leases import LeaseLost
from gateway.telemetry.logs import log_to_stderr

app = typer.Typer()
log = typer.Typer(help="The log of all records.", no_args_is_help=True)
app.add_typer(log, name="log")


@log.callback()
def _commands() -> None:
    pass


@log.command()
def status(data_dir: DataDir = None, json: AsJson = False) -> None:
    """Tell how many records the database holds, and how many are in cold storage."""
    with told_plainly(*FORESEEN):
        settings = Settings.read(data_dir=data_dir)
        with _reading(settings) as connection:
            hot = connection.execute(select(func.count()).select_from(tables.trace)).scalar_one()
            cold, size = reading.total(connection)
    told = {"records": hot, "cold_records": cold, "cold_bytes": size, "place": settings.cold_store}
    if json:
        typer.echo(json_text.dumps(told))
        return
    typer.echo(f"{hot} records are in the database")
    typer.echo(f"{cold} are in cold storage, {size} bytes: {settings.cold_store or 'none is set'}")


@log.command()
def archive(data_dir: DataDir = None, json: AsJson = False) -> None:
    """Move old records to cold storage now, while the gateway is stopped.

    A gateway that runs does it by itself, every ten minutes.
    """
    with told_plainly(*FORESEEN, LeaseLost):
        settings = Settings.read(data_dir=data_dir)
        log_to_stderr(settings.log_level)
        if settings.cold_store is None:
            raise SettingsFault(["GATEWAY_COLD_STORE is not set: name a folder, or s3://bucket"])
        with open_by(settings) as state:
            found = archive_of(settings, state)
            assert found is not None
            moved = found.round(_progress)
    if json:
        typer.echo(json_text.dumps({"moved": moved, "place": settings.cold_store}))
        return
    typer.echo(f"{moved} records are in {settings.cold_store} now, and no longer in the database.")


def _progress(moved: int, of: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{moved:,} of {of:,} records", err=True, nl=moved == of)


@contextmanager
def _reading(settings: Settings) -> Iterator[Connection]:
    if not is_made(settings.database):
        raise NotInitialised(f"{settings.data_dir} holds no gateway; run `gateway init` first")
    engine = reading_engine(settings.database)
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()
