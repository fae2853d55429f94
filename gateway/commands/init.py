"""`gateway init`: a data directory that `gateway serve` can run on."""

from typing import Annotated

import typer

from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.commands.project import Owner, WithUser, make, tell
from gateway.data_dir.state import open_by
from gateway.registry import projects
from gateway.registry.faults import Conflict
from gateway.settings import Settings
from gateway.telemetry.logs import log_to_stderr

app = typer.Typer()


@app.command()
def init(
    project: Annotated[
        str, typer.Option("--project", help="The first project's name.")
    ] = "Default",
    owner: Owner = "operator",
    user: WithUser = None,
    if_missing: Annotated[
        bool,
        typer.Option("--if-missing", help="Succeed, and change nothing, where it is done already."),
    ] = False,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Make the data directory, its four keys, the database, a project and its first administrator.

    An init that was cut short can be run again; a finished one is never overwritten.
    """
    with told_plainly(*FORESEEN):
        settings = Settings.read(data_dir=data_dir)
        log_to_stderr(settings.log_level)
        with open_by(settings, create=True) as state:
            if state.registry.read_now(projects.all_of_them):
                if if_missing:
                    typer.echo(f"{settings.data_dir} is initialised", err=True)
                    return
                raise Conflict(
                    f"{settings.data_dir} is initialised; `gateway project create` adds a project"
                )
            given = settings.admin_key
            secret = None if given is None else given.get_secret_value()
            with_user = secret is None if user is None else user
            told = make(state, project, None, owner, secret=secret, with_user=with_user)
    tell({"data_dir": str(settings.data_dir), **told}, json)
