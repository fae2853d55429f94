"""`gateway opa`: the policy engine's program."""

import orjson
import typer
from rich.console import Console

from gateway.commands.options import AsJson, told_plainly
from gateway.policy import opa_binary
from gateway.settings import Settings, SettingsFault

app = typer.Typer()
opa = typer.Typer(help="The policy engine's program.", no_args_is_help=True)
app.add_typer(opa, name="opa")


@opa.callback()
def _opa() -> None:
    pass


@opa.command()
def install(as_json: AsJson = False) -> None:
    """Put the pinned OPA where `gateway serve` finds it, if it is not there yet."""
    console = Console(stderr=True)
    with (
        told_plainly(SettingsFault, opa_binary.OpaMissing),
        console.status("looking for OPA") as status,
    ):
        Settings.read()
        path = opa_binary.install(status.update)
    if as_json:
        typer.echo(orjson.dumps({"version": opa_binary.OPA_VERSION, "path": str(path)}))
    else:
        typer.echo(f"OPA {opa_binary.OPA_VERSION} is at {path}")
