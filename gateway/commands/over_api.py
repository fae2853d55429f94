"""What the operators' commands over the API have in common."""

import json as json_text
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from gateway.commands.options import CANNOT_TELL, api_key, printable, told_plainly
from gateway.configuration.api import Api, ApiRefused, ApiUnknown, ApiWaits


class NotFound(Exception):
    """Nothing has that name or id."""


@contextmanager
def the_api(url: str, key_file: Path | None) -> Iterator[Api]:
    """The API under the operator's key; what it says no to, and why, goes to standard error."""
    refused = (ApiRefused, ApiWaits, NotFound)
    with (
        told_plainly(ApiUnknown, code=CANNOT_TELL),
        told_plainly(*refused),
        Api(url, api_key(key_file)) as api,
    ):
        yield api


def id_of(api: Api, path: str, prefix: str, name: str, called: str) -> str:
    """The id as it is given, or that of the one with this name. Raises `NotFound`."""
    if name.startswith(prefix):
        return name
    for row in api.all(path):
        if row[called] == name:
            return str(row["id"])
    raise NotFound(f"no {path.rpartition('/')[2]} has the {called} {printable(name)}")


def tell(row: dict[str, Any], names: tuple[str, ...], json: bool) -> None:
    """Print an answer: all of it as one line of JSON, or these members of it as text."""
    if json:
        typer.echo(json_text.dumps(row))
        return
    for name in names:
        if row.get(name) not in (None, [], ""):
            typer.echo(f"{name.replace('_', ' '):20} {_text(row[name])}")


def line(row: dict[str, Any], names: tuple[str, ...], json: bool) -> None:
    """Print one row of a list."""
    typer.echo(json_text.dumps(row) if json else "  ".join(_text(row[n]) for n in names if row[n]))


def _text(value: object) -> str:
    return printable(value if isinstance(value, str) else json_text.dumps(value))
