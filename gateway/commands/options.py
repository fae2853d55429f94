"""What several commands take, and how each of them says that it cannot go on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

REFUSED = 1
CANNOT_TELL = 3

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

ApiUrl = Annotated[
    str, typer.Option("--url", envvar="POLICY_GATEWAY_URL", help="The gateway's URL.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with the key to use; otherwise POLICY_GATEWAY_KEY."),
]
DEFAULT_URL = "http://127.0.0.1:8080"
_KEY = "POLICY_GATEWAY_KEY"


def api_key(key_file: Path | None) -> str:
    """The key from the file or the environment, never from the command line, which others see."""
    if key_file is None:
        key = os.environ.get(_KEY, "")
    else:
        try:
            key = key_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"cannot read {key_file}: {error}") from None
    if not key or not key.isascii() or not key.isprintable():
        raise typer.BadParameter(f"give a key: --key-file FILE, or the variable {_KEY}")
    return key


@contextmanager
def told_plainly(*expected: type[Exception], code: int = REFUSED) -> Iterator[None]:
    """Turn a fault that was foreseen into its message on standard error and an exit code.

    What was not foreseen keeps its traceback: it is a defect, and the traceback says where.
    """
    try:
        yield
    except expected as fault:
        for line in _told(fault).splitlines():
            typer.echo(f"gateway: {line}", err=True)
        raise typer.Exit(code) from None


def _told(fault: Exception) -> str:
    if not isinstance(fault, OSError) or fault.filename is None:
        return str(fault)
    advice = "name another path"
    if isinstance(fault, PermissionError):
        advice = f"run as its owner, give it to the user that runs this, or {advice}"
    return f"cannot use {fault.filename}: {fault.strerror}; {advice}"


def printable(text: str) -> str:
    """A name or reason that a client had a hand in, without what a terminal would obey."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
