"""`gateway opa`: the policy engine's program."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from gateway import keyring
from gateway.assets import asset
from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.data_dir.state import KEYS
from gateway.listeners import management_token
from gateway.policy import opa_binary
from gateway.policy.shipped import try_shipped
from gateway.policy.sidecar import environment_of, hand_over, start_command, url_of
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


@opa.command()
def sidecar(
    folder: Annotated[Path, typer.Argument(help="Folder that the gateway's user and OPA share.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Prepare a folder for an OPA that somebody else runs beside the gateway.

    It gets the configuration, the token for the bundle server and the key that bundles are signed
    with, all of mode 600. Do it again, and start that OPA anew, when the bundle key is rotated.
    """
    where = folder.expanduser().absolute()
    with told_plainly(*FORESEEN, OSError, ValueError):
        url = url_of(where)
        settings = Settings.read(data_dir=data_dir)
        key = keyring.load(settings.data_dir / KEYS).bundle
        hand_over(where, asset("opa-config.yaml"), management_token(settings.data_dir), key)
    words, port = start_command(where), settings.management_port
    given = environment_of(where, f"http://127.0.0.1:{port}")
    if as_json:
        told = {"folder": str(where), "url": url, "command": words, "environment": given}
        typer.echo(orjson.dumps(told))
        return
    typer.echo(f"{where} is ready. Start OPA {opa_binary.OPA_VERSION} as the same user with")
    typer.echo("  " + shlex.join(words))
    for name, value in given.items():
        typer.echo(f"  {name}={value}")
    typer.echo(f"and the gateway with GATEWAY_OPA_URL={url}")


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
