"""`gateway opa`: the policy engine's program."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import typer
from rich.console import Console

from gateway.assets import asset
from gateway.commands.options import AsJson, told_plainly
from gateway.policy import opa_binary
from gateway.policy.shipped import try_shipped
from gateway.policy.sources import BundleFault
from gateway.settings import Settings, SettingsFault

_SECONDS_BETWEEN_LINES = 15

app = typer.Typer()
opa = typer.Typer(help="The policy engine's program.", no_args_is_help=True)
app.add_typer(opa, name="opa")


@opa.callback()
def _opa() -> None:
    pass


@opa.command()
def install(as_json: AsJson = False) -> None:
    """Put the pinned OPA where `gateway serve` finds it, if it is not there yet.

    Then try the policies that ship with the gateway on it, so that the first start need not.
    """
    with told_plainly(SettingsFault, opa_binary.OpaMissing, BundleFault), _progress() as progress:
        Settings.read()
        path = opa_binary.install(progress)
        progress("trying the policies that ship with the gateway")
        try_shipped(path, asset("rego"), opa_binary.proved_dir())
    if as_json:
        typer.echo(orjson.dumps({"version": opa_binary.OPA_VERSION, "path": str(path)}))
    else:
        typer.echo(f"OPA {opa_binary.OPA_VERSION} is at {path}")


@contextmanager
def _progress() -> Iterator[opa_binary.Progress]:
    """One line that changes on a terminal; elsewhere a line now and then, as in a build's log."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("looking for OPA") as status:
            yield status.update
        return
    told = float("-inf")

    def tell(message: str) -> None:
        nonlocal told
        if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            console.print(message, soft_wrap=True, highlight=False)

    yield tell
