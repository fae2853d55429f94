"""`gateway serve`: the gateway and its OPA."""

import json as json_text
from dataclasses import asdict

import typer

from gateway.app import Ready
from gateway.app import serve as run
from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, Host, Port, told_plainly
from gateway.settings import Settings
from gateway.telemetry.logs import log_to_stderr

app = typer.Typer()


@app.command()
def serve(
    data_dir: DataDir = None, host: Host = None, port: Port = None, json: AsJson = False
) -> None:
    """Run the gateway and its OPA until Ctrl-C or SIGTERM; logs go to standard error."""

    def ready(gateway: Ready) -> None:
        told = json_text.dumps(asdict(gateway)) if json else f"Listening on {gateway.base_url}"
        typer.echo(told)

    with told_plainly(*FORESEEN, PermissionError):
        settings = Settings.read(data_dir=data_dir, host=host, port=port)
        log_to_stderr(settings.log_level)
        run(settings, ready=ready)
