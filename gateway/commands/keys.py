"""`gateway keys`: the deployment's own keys, while the gateway is stopped."""

import os
from typing import Annotated, Literal

import typer

from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.commands.over_api import tell
from gateway.durable import write_file
from gateway.registry.core import Actor, Change
from gateway.settings import Settings
from gateway.state import KEYS, State, open_by
from gateway.telemetry import log_to_stderr

app = typer.Typer()
keys = typer.Typer(help="The deployment's own keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")

_LOST = {
    "bundle": "the next start signs and loads the policy anew",
    "seal": "sessions and states that clients hold end; they begin new ones",
}


@keys.callback()
def _keys() -> None:
    pass


@keys.command()
def rotate(
    which: Annotated[
        Literal["bundle", "seal"],
        typer.Argument(help="bundle: signs policies; seal: protects what clients carry for us."),
    ],
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Replace a key by a new one; recorded in every project. The gateway must be stopped."""
    with told_plainly(*FORESEEN, OSError):
        settings = Settings.read(data_dir=data_dir)
        log_to_stderr(settings.log_level)
        with open_by(settings) as state:
            # Recorded first: a key that changed unseen would be worse than a record too many.
            _record(state, which)
            write_file(settings.data_dir / KEYS / f"{which}.key", os.urandom(32))
    tell({"key": which, "note": _LOST[which]}, ("key", "note"), json)


def _record(state: State, which: str) -> None:
    def note(change: Change) -> None:
        change.record("deployment_key.rotated", which, codes={"key_of": which})

    for view in state.directory.projects():
        state.registry.change_now(Actor.operator(view.project.id), note)
