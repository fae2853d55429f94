"""`gateway anchor`: the contract on Flare, and how much of the log is anchored."""

import asyncio
import json as json_text
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.anchors.place import AnchorUnusable
from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import CANNOT_TELL, REFUSED, AsJson, DataDir, printable, told_plainly
from gateway.data_dir.state import NotInitialised, is_made
from gateway.settings import Settings
from gateway.store.database import reading_engine
from gateway.trace import receipts

if TYPE_CHECKING:
    from gateway.anchors.deploy import Deployed

app = typer.Typer()
anchor = typer.Typer(
    help="Anchors: who outside the gateway vouches for the log.", no_args_is_help=True
)
app.add_typer(anchor, name="anchor")


@anchor.command()
def deploy(json: AsJson = False) -> None:
    """Put the contract on the chain of GATEWAY_FLARE_RPC_URL, paid by the key that is set."""
    with told_plainly(*FORESEEN, AnchorUnusable):
        settings = Settings.read()
        made = asyncio.run(
            _deploy()(settings, lambda tx: typer.echo(f"Sent {tx}; waiting", err=True))
        )
    if json:
        typer.echo(json_text.dumps(asdict(made)))
        return
    typer.echo(f"The contract is at {made.contract} on chain {made.chain_id}, block {made.block}.")
    typer.echo(f"GATEWAY_FLARE_CONTRACT={made.contract}")


def _deploy() -> Callable[[Settings, Callable[[str], None]], Coroutine[None, None, "Deployed"]]:
    try:
        from gateway.anchors.deploy import deploy  # noqa: PLC0415 - imports web3
    except ImportError as error:
        raise AnchorUnusable(
            f"{error.name} is missing: install policy-gateway with its extra `flare`"
        ) from None
    return deploy


@anchor.command()
def status(
    data_dir: DataDir = None,
    json: AsJson = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also while something is pending.")
    ] = False,
) -> None:
    """Tell how much of the log is anchored, and what keeps the rest; also while it runs."""
    with told_plainly(*FORESEEN, code=CANNOT_TELL):
        settings = Settings.read(data_dir=data_dir)
        told = _standing(settings)
    if json:
        typer.echo(json_text.dumps({**asdict(told), "unanchored": told.size - told.anchored}))
    else:
        typer.echo(f"{told.state}: {told.anchored} of {told.size} records are anchored")
        for one in told.backends:
            detail = f" since {one.since}: {printable(one.detail)}" if one.detail else ""
            typer.echo(f"{one.name}: {one.condition}, {one.size} records{detail}")
    if told.state == "FAILED" or (strict and told.state != "ANCHORED"):
        raise typer.Exit(REFUSED)


def _standing(settings: Settings) -> receipts.LogStanding:
    if not is_made(settings.database):
        raise NotInitialised(f"{settings.data_dir} holds no gateway; run `gateway init` first")
    engine = reading_engine(settings.database)
    try:
        with engine.connect() as connection, connection.begin():
            return receipts.standing(connection)
    finally:
        engine.dispose()
