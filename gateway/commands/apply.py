"""`gateway apply`, `diff` and `export`: a project's configuration as files."""

import json as json_text
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gateway.clock import rfc3339
from gateway.commands.options import (
    CANNOT_TELL,
    DEFAULT_URL,
    REFUSED,
    ApiUrl,
    AsJson,
    KeyFile,
    api_key,
    told_plainly,
)
from gateway.configuration import document
from gateway.configuration.api import Api, ApiRefused, ApiUnknown, ApiWaits
from gateway.configuration.apply import Application, Credentials, SecretMissing, StepFailed
from gateway.configuration.export import export as exported
from gateway.configuration.live import Live, read
from gateway.configuration.plan import Plan, Step, plan
from gateway.configuration.source import DocumentFault
from gateway.configuration.telling import as_object, as_text, told

app = typer.Typer()

Files = Annotated[list[Path], typer.Argument(help="YAML files; together they are one whole.")]
Prune = Annotated[
    bool, typer.Option("--prune", help="Delete what a section of the files does not name.")
]
SendAuth = Annotated[
    list[str] | None,
    typer.Option("--send-auth", help="Send this server's credential anew (a slug; repeatable)."),
]


class Refused(Exception):
    """The plan cannot be done, or may not be."""


@app.command()
def apply(
    files: Files,
    prune: Prune = False,
    send_auth: SendAuth = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")] = False,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Bring the project to what the files say: shows the plan, asks, then does it.

    A second run has nothing to do; one that was cut short is finished by the next.
    """
    done: list[Step] = []
    waiting: list[str] = []

    def tell(step: Step, waits: ApiWaits | None) -> None:
        if waits is None:
            done.append(step)
            typer.echo(f"done: {told(step)}", err=json)
        else:
            waiting.append(waits.proposal_id)
            typer.echo(f"{waits}: {told(step)}", err=json)

    with _plainly(), Api(url, api_key(key_file)) as api:
        wanted = document.read(files)
        live, todo = _compared(api, wanted, prune, send_auth)
        typer.echo(as_text(todo), err=json)
        credentials = Credentials.of(todo)
        if todo.steps and not yes:
            _ask()
            live, again = _compared(api, wanted, prune, send_auth)
            if again != todo:
                raise Refused(
                    "The project was changed meanwhile; run it again to see the new plan."
                )
        try:
            Application(api, live, credentials).run(todo, tell)
        finally:
            if json:
                counted = {"done": len(done), "waiting": waiting}
                typer.echo(json_text.dumps(as_object(todo) | counted))
            if len(done) + len(waiting) < len(todo.steps):
                left = f"{len(done)} of {len(todo.steps)} changes are done"
                typer.echo(f"gateway: {left}; run it again to finish", err=True)
        if waiting:
            raise Refused(f"{len(waiting)} changes loosen and wait for another administrator.")


@app.command()
def diff(
    files: Files,
    prune: Prune = False,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Show what `apply` would do, and do nothing. Exit code 1 when there is something to do."""
    with _plainly(), Api(url, api_key(key_file)) as api:
        _, todo = _compared(api, document.read(files), prune, None)
    typer.echo(json_text.dumps(as_object(todo)) if json else as_text(todo))
    if todo.steps:
        raise typer.Exit(REFUSED)


@app.command()
def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")
    ] = None,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """Print the project's configuration as YAML; credentials are placeholders, never secrets."""
    with _plainly(), Api(url, api_key(key_file)) as api:
        text = exported(read(api), rfc3339(time.time()))
    if output is None:
        typer.echo(text, nl=False)
        return
    with told_plainly(OSError):
        output.write_text(text)


@contextmanager
def _plainly() -> Iterator[None]:
    refused = (DocumentFault, SecretMissing, ApiRefused, StepFailed, Refused)
    with told_plainly(ApiUnknown, code=CANNOT_TELL), told_plainly(*refused):
        yield


def _compared(
    api: Api, wanted: document.Document, prune: bool, send_auth: Sequence[str] | None
) -> tuple[Live, Plan]:
    live = read(api)
    resend = frozenset(send_auth or ())
    todo = plan(wanted, live.items, rfc3339(time.time()), prune=prune, resend=resend)
    if todo.problems:
        raise Refused("\n".join(todo.problems))
    return live, todo


def _ask() -> None:
    if not sys.stdin.isatty():
        raise Refused("Nothing was changed: nobody can be asked here; give --yes.")
    if not typer.confirm("Do this?", err=True):
        raise Refused("Nothing was changed.")
