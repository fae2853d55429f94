"""A new data directory: its keys, its database, and a project with whoever looks after it."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.registry import projects, users
from gateway.registry.core import Actor
from gateway.registry.keys import NewKey
from gateway.registry.projects import NewProject
from gateway.registry.users import NewUser
from gateway.settings import Settings
from gateway.state import State, open_by
from gateway.values import ProjectId


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `initialise` made; the key is shown here and nowhere again."""

    project_id: str
    project_slug: str
    admin_key: str


def initialise(
    settings: Settings, *, project: str, owner: str, people: Sequence[NewUser] = ()
) -> Initialised:
    """Make data directory, keys and database where missing, and a project with its first admin.

    ``people`` sign in with the passwords that they bring. Blocks. Raises what
    `gateway.state.open_by` raises, and `gateway.registry.faults.Conflict` when there is a
    project of that name.
    """
    slug = projects.slug_of(project)
    opened = open_by(settings, create=True)
    with opened as state:
        row, _, key = projects.create_now(
            state.registry,
            NewProject.model_validate({"name": project, "slug": slug}),
            NewKey.model_validate({"role": "admin", "name": "First administrator", "owner": owner}),
        )
        for person in people:
            _add(state, row.id, person)
    return Initialised(row.id, row.slug, key)


def _add(state: State, project_id: ProjectId, person: NewUser) -> None:
    password_hash = users.hashed_now(person.password or "")
    # Each by themselves: nobody else is said to know the password.
    by = Actor.operator(project_id, person.name)
    state.registry.change_now(by, lambda change: users.create(change, person, password_hash))
