"""A new data directory: its keys, its database, and a project with whoever looks after it."""

from collections.abc import Sequence

import structlog
from pydantic import SecretStr

from gateway.data_dir.state import State, open_by
from gateway.frozen import frozen
from gateway.registry import keys, projects, users
from gateway.registry.core import Actor
from gateway.registry.faults import Conflict
from gateway.registry.keys import NewKey
from gateway.registry.projects import NewProject
from gateway.registry.users import NewUser
from gateway.settings import Settings
from gateway.values import ProjectId

_log = structlog.get_logger(__name__)


@frozen
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
    `gateway.data_dir.state.open_by` raises, and `gateway.registry.faults.Conflict` when there is a
    project of that name.
    """
    slug = projects.slug_of(project)
    opened = open_by(settings, create=True)
    with opened as state:
        state.writer.change_now(state.checkpoints.begin_log)
        row, _, key = projects.create_now(
            state.registry,
            NewProject.model_validate({"name": project, "slug": slug}),
            NewKey.model_validate({"role": "admin", "name": "First administrator", "owner": owner}),
        )
        for person in people:
            _add(state, row.id, person)
    return Initialised(row.id, row.slug, key)


def let_in(state: State, given: SecretStr | None) -> None:
    """Make the key an administrator's of the oldest project while nobody is one: the last key ran
    out, say, and no person may sign in. Once an admin exists it has no effect.

    Blocks. Raises `gateway.registry.faults.Conflict` for a key that was revoked or ran out.
    """
    if given is None:
        return
    secret, now = given.get_secret_value(), state.clock.now()
    found = state.registry.read_now(projects.all_of_them)
    if not found or state.registry.read_now(lambda c: keys.anybody_administers(c, now)):
        return
    if state.registry.read_now(lambda c: keys.is_known(c, secret)):
        raise Conflict("GATEWAY_ADMIN_KEY was revoked or has expired; set another one.")
    new = NewKey.model_validate({"role": "admin", "name": "GATEWAY_ADMIN_KEY", "owner": "operator"})
    by = Actor.operator(ProjectId(min(row.id for row in found)))
    state.registry.change_now(by, lambda change: keys.create(change, new, secret))
    _log.warning("nobody was an administrator; GATEWAY_ADMIN_KEY is", project=by.project_id)


def _add(state: State, project_id: ProjectId, person: NewUser) -> None:
    password_hash = users.hashed_now(person.password or "")
    # Each by themselves: nobody else is said to know the password.
    by = Actor.operator(project_id, person.name)
    state.registry.change_now(by, lambda change: users.create(change, person, password_hash))
