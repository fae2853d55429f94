"""`gateway demo`: everything at once, on this machine."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from gateway.commands.options import AsJson, Port, told_plainly
from gateway.demo import state as states
from gateway.demo.crm_process import CrmProcess
from gateway.demo.instructions import Demo, as_json, as_text

app = typer.Typer()


@app.command()
def demo(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Folder for the demonstration's data and keys.")
    ] = Path("data/demo"),
    port: Port = None,
    json: AsJson = False,
) -> None:
    """Run a sample MCP server, OPA and a gateway with policies for all four actions.

    Data and keys stay for the next start; remove the folder to begin afresh.
    """
    folder = data_dir.absolute()
    tell = as_json if json else as_text

    def ready(demo: Demo) -> None:
        typer.echo(tell(demo))

    with told_plainly(states.StateUnreadable):
        crm_port = states.read(folder).crm_port
    with CrmProcess(crm_port) as crm:
        # Imported only now: meanwhile the sample server imports its own, on another core.
        demonstration = importlib.import_module("gateway.demo.run")
        foreseen = importlib.import_module("gateway.commands.foreseen").FORESEEN
        with told_plainly(
            *foreseen, PermissionError, demonstration.DemoFailed, states.StateUnreadable
        ):
            demonstration.run(folder, port, crm, ready)
