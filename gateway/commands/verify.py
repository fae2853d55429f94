"""`gateway verify`: an evidence bundle, its decisions made again, or a whole database."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from gateway.cold.objects import ColdFault
from gateway.cold.place import cold_store
from gateway.cold.reading import ColdStore, reading_also
from gateway.commands.options import AsJson, told_plainly
from gateway.commands.verify_replay import replay_checks
from gateway.database_place import DATABASE, Place, PostgresUrl, postgres_url
from gateway.policy import opa_binary
from gateway.policy.opa_binary import OpaMissing
from gateway.settings import Settings, SettingsFault
from gateway.store.database import reading_engine
from gateway.trace.note import NoteFault, VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.verdicts import Check
from gateway.trace.verify_command import CANNOT_TELL, More, report, roots, run, trusted

app = typer.Typer()
_DATABASE = "db"


@app.command()
def verify(
    bundle: Annotated[
        str, typer.Argument(help="Evidence, a folder or a zip; or the word db, and then where.")
    ],
    database: Annotated[
        str | None,
        typer.Argument(
            help="With db: a data folder, a SQLite file or postgresql://user@host/database; none "
            "for GATEWAY_DATABASE_URL."
        ),
    ] = None,
    trust_key: Annotated[
        str | None, typer.Option("--trust-key", help="The log's verifier key, or a file with it.")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option("--previous", help="File with a checkpoint seen earlier.")
    ] = None,
    min_size: Annotated[
        int, typer.Option("--min-size", help="Records that there must be at least.", min=0)
    ] = 0,
    writer: Annotated[
        str | None, typer.Option("--writer", help="Address that signs the anchors, 0x…")
    ] = None,
    rpc: Annotated[
        str | None, typer.Option("--rpc", help="A node that is asked whether it has the anchors.")
    ] = None,
    tsa_ca: Annotated[
        Path | None, typer.Option("--tsa-ca", help="Roots of time-stamp authorities, PEM.")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Make each decision again, with OPA.")
    ] = False,
    cold: Annotated[
        str | None,
        typer.Option("--cold", envvar="GATEWAY_COLD_STORE", help="With db: where old records are."),
    ] = None,
    cold_endpoint: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_COLD_ENDPOINT", help="With db: the S3 service of it."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is invalid too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check evidence with nothing but a key that you trust.

    Exit codes: 0 valid, 1 invalid (evidence of change), 2 usage, 3 cannot tell.
    """
    if bundle == _DATABASE:
        with told_plainly(ColdFault, code=CANNOT_TELL):
            store = cold_store(cold, cold_endpoint)
        raise typer.Exit(_database(database, store, trust_key, strict=strict, as_json=as_json))
    if database is not None:
        raise typer.BadParameter("one bundle at a time")
    if trust_key is None:
        raise typer.BadParameter("give --trust-key: a key that a bundle holds proves nothing")
    with _told_as_usage("--trust-key, --previous or --tsa-ca"):
        trust = trusted(trust_key, previous, min_size)
        trust = replace(trust, writer=writer, rpc=rpc, tsa_ca=roots(tsa_ca))
    more = [_replaying()] if replay else []
    raise typer.Exit(run(Path(bundle), trust, strict=strict, as_json=as_json, more=more))


def _replaying() -> More:
    with told_plainly(OpaMissing, code=CANNOT_TELL):
        opa = opa_binary.find()
    return lambda opened: replay_checks(opened, opa)


@contextmanager
def _told_as_usage(options: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, NoteFault) as fault:
        raise typer.BadParameter(f"{options}: {fault}") from None


def _database(
    named: str | None,
    store: ColdStore | None,
    trust_key: str | None,
    *,
    strict: bool,
    as_json: bool,
) -> int:
    key = None
    if trust_key is not None:
        with _told_as_usage("--trust-key"):
            key = trusted(trust_key, None, 0).key
    place = _of_settings() if named is None else _place(named)
    if isinstance(place, Path) and not place.is_file():
        return report([_cannot(f"{place} is not there")], strict=strict, as_json=as_json)
    return report(_rechecked(place, store, key), strict=strict, as_json=as_json)


def _place(named: str) -> Place:
    if "://" in named:
        with _told_as_usage("db"):
            return postgres_url(named)
    path = Path(named)
    return path / DATABASE if path.is_dir() else path


def _of_settings() -> PostgresUrl:
    with told_plainly(SettingsFault):
        place = Settings.read().database
    if isinstance(place, Path):
        raise typer.BadParameter(
            "name a data folder or a SQLite file: gateway verify db data; or set "
            "GATEWAY_DATABASE_URL"
        )
    return place


def _rechecked(place: Place, store: ColdStore | None, key: VerifierKey | None) -> list[Check]:
    name = place if isinstance(place, Path) else "the PostgreSQL database"
    engine = reading_also(reading_engine(place), store)
    try:
        with engine.connect() as connection, connection.begin():
            return recheck(connection, key, _Progress().show)
    except SQLAlchemyError as fault:
        return [_cannot(f"{name} cannot be read: {type(fault).__name__}")]
    finally:
        engine.dispose()


def _cannot(why: str) -> Check:
    return Check("database", "CANNOT TELL", why)


class _Progress:
    """One line on standard error, once a second, where somebody watches."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 1

    def show(self, done: int, of: int) -> None:
        if sys.stderr.isatty() and (time.monotonic() >= self._next or done == of):
            self._next = time.monotonic() + 1
            typer.echo(f"\r{done:,} of {of:,} records", err=True, nl=done == of)
