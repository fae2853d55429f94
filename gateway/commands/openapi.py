"""`gateway openapi`: the description of the API, as the server publishes it."""

from pathlib import Path
from typing import Annotated

import typer

from gateway.api.openapi import document
from gateway.api.routes import ROUTES
from gateway.commands.options import told_plainly

app = typer.Typer()


@app.command()
def openapi(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")
    ] = None,
) -> None:
    """Print the API's description, OpenAPI 3.1 in JSON."""
    text = document(ROUTES)
    if output is None:
        typer.echo(text)
        return
    with told_plainly(OSError):
        output.write_bytes(text + b"\n")
