"""What several commands take, and how each of them says that it cannot go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

REFUSED = 1

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder for the data; otherwise GATEWAY_DATA_DIR."),
]
Host = Annotated[
    str | None, typer.Option("--host", help="Address to listen on; otherwise GATEWAY_HOST.")
]
Port = Annotated[
    int | None, typer.Option("--port", help="Port to listen on, 0 for a free one.", max=65535)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of text.")]


@contextmanager
def told_plainly(*expected: type[Exception]) -> Iterator[None]:
    """Turn a fault that was foreseen into its message on standard error and exit code 1.

    What was not foreseen keeps its traceback: it is a defect, and the traceback says where.
    """
    try:
        yield
    except expected as fault:
        for line in str(fault).splitlines():
            typer.echo(f"gateway: {line}", err=True)
        raise typer.Exit(REFUSED) from None
