"""`gateway project`: projects, made by whoever holds the data directory."""

import json as json_text
import re
from typing import Annotated

import typer
from pydantic import ValidationError

from gateway.commands.foreseen import FORESEEN
from gateway.commands.options import AsJson, DataDir, told_plainly
from gateway.data_dir.state import State, open_by
from gateway.ids import new_id
from gateway.registry import keys, projects, users
from gateway.registry.core import Actor, Change
from gateway.registry.keys import NewKey
from gateway.registry.projects import NewProject
from gateway.registry.users import NewUser
from gateway.settings import Settings
from gateway.telemetry.logs import log_to_stderr
from gateway.values import ProjectId

app = typer.Typer()
project = typer.Typer(help="Projects of this data directory.", no_args_is_help=True)
app.add_typer(project, name="project")

Owner = Annotated[
    str, typer.Option("--owner", help="The person who answers for the project's first admin key.")
]
WithUser = Annotated[
    bool | None,
    typer.Option(
        "--user/--no-user",
        help="Let the owner sign in to the dashboard, with a password that is printed once. "
        "By default yes, unless GATEWAY_ADMIN_KEY says that a program reads this.",
    ),
]


@project.callback()
def _project() -> None:
    pass


@project.command()
def create(
    name: Annotated[str, typer.Argument(help="The project's name.")],
    slug: Annotated[
        str | None,
        typer.Option("--slug", help="Its name in Rego, for good; otherwise made from the name."),
    ] = None,
    owner: Owner = "operator",
    user: WithUser = None,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Add a project with its first admin key and person, while the gateway is stopped."""
    with told_plainly(*FORESEEN):
        settings = Settings.read(data_dir=data_dir)
        log_to_stderr(settings.log_level)
        with open_by(settings) as state:
            told = make(state, name, slug, owner, with_user=user is not False)
    tell(told, json)


def make(
    state: State,
    name: str,
    slug: str | None,
    owner: str,
    *,
    secret: str | None = None,
    with_user: bool,
) -> dict[str, str]:
    """Make a project, its first admin key, which is `secret` if that is given, and maybe the
    owner's login.

    Raises `gateway.registry.faults.Fault`, or `typer.BadParameter`.
    """
    try:
        new = NewProject(name=name, slug=slug or _slug_from(name))
        key = NewKey(
            role="admin", name="First admin key", owner=owner, server_ids=None, may_assert=[]
        )
        person = NewUser(name=owner, role="admin")
    except ValidationError as error:
        faults = [f"{fault['loc'][0]} {_message(fault['msg'])}" for fault in error.errors()]
        raise typer.BadParameter("; ".join(faults)) from None
    by = Actor.operator(ProjectId(new_id("prj")), owner)
    password = users.new_password() if with_user else ""
    password_hash = users.hashed_now(password) if with_user else ""

    def all_of_it(change: Change) -> tuple[str, str]:
        made_slug = projects.create(change, new).slug
        made = keys.create(change, key, secret)[1]
        if with_user:
            users.create(change, person, password_hash)
        return made_slug, made

    made_slug, made = state.registry.change_now(by, all_of_it)
    # A secret that was given is known already, and a log may keep what is printed.
    told = made if secret is None else "as GATEWAY_ADMIN_KEY has it"
    login = {"user": owner, "password": password} if with_user else {}
    return {"project_id": by.project_id, "slug": made_slug, "admin_key": told, **login}


def tell(told: dict[str, str], json: bool) -> None:
    """Print what was made; key and password are shown here and nowhere again."""
    if json:
        typer.echo(json_text.dumps(told))
        return
    for name, value in told.items():
        typer.echo(f"{name.replace('_', ' '):12} {value}")
    typer.echo("Keys and passwords are shown once.")


def _message(of_pydantic: str) -> str:
    return of_pydantic.removeprefix("Value error, ")


def _slug_from(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:48]
