"""Projects and their settings."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from sqlalchemy import Connection, Row, insert, select, update

from gateway.ids import new_id
from gateway.registry import keys, weakening
from gateway.registry.core import Actor, Change, Registry
from gateway.registry.faults import Conflict, Missing
from gateway.registry.fields import Input, Name, Patch, unsent
from gateway.registry.keys import NewKey
from gateway.registry.loosening import loosened_settings
from gateway.registry.weakening import Wish
from gateway.store import tables
from gateway.trace.record import Field as Code
from gateway.values import Action, ProjectId

_p = tables.projects.c


def _slug(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", value):
        raise ValueError("must be small letters, digits and underscores, a letter first, up to 48")
    return value


def slug_of(name: str) -> str:
    """The slug a name suggests; it may still be taken."""
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:48].rstrip("_")
    return words if words[:1].isalpha() else f"p_{words}"[:48]


_PerMinute = Annotated[int, Field(ge=1, le=10_000)]
_Repeats = Annotated[
    _PerMinute,
    Field(description="Identical calls of an agent or key, a minute; without it any number"),
]
_Refusals = Annotated[
    _PerMinute,
    Field(description="Refused calls of an agent or key, a minute; without it any number"),
]
_Enforcement = Annotated[
    Literal["enforce", "monitor"],
    Field(
        description="`monitor` records what policies and budgets would refuse, and lets it go; "
        "stops and pins bind always"
    ),
]
_DefaultAction = Annotated[
    Action, Field(description="What becomes of a call that no rule and no policy speaks of")
]
_KeyApprovers = Annotated[
    bool, Field(description="Whether keys, too, decide approvals, and not only people who sign in")
]


class NewProject(Input):
    name: Name
    slug: Annotated[str, AfterValidator(_slug)]
    default_action: _DefaultAction = Action.ALLOW
    enforcement: _Enforcement = "enforce"
    key_approvers: _KeyApprovers = False


class ProjectPatch(Patch):
    name: Name = unsent()
    enforcement: _Enforcement = unsent()
    default_action: _DefaultAction = unsent()
    deny_style: Annotated[
        Literal["error", "result"],
        Field(
            description="How a refused call is answered: as a JSON-RPC error, or as the tool's "
            "result with `isError`"
        ),
    ] = unsent()
    on_tool_change: Annotated[
        Literal["block", "alert"],
        Field(
            description="A tool whose definition changed is refused until somebody accepts it, "
            "or only told of"
        ),
    ] = unsent()
    unknown_tools: Annotated[
        Literal["deny", "ask", "allow"],
        Field(description="What becomes of a call to a tool that nobody has scanned"),
    ] = unsent()
    hide_denied_tools: Annotated[
        bool, Field(description="Leave tools out of lists that their caller may surely not call")
    ] = unsent()
    weakening: Annotated[
        Literal["allowed", "second_person", "forbidden"] | None,
        Field(
            description="Changes that make something milder; without a choice, a second person "
            "confirms them once there are two administrators"
        ),
    ] = unsent()
    key_approvers: _KeyApprovers = unsent()
    approval_ttl_seconds: Annotated[
        int,
        Field(
            ge=60,
            le=7 * 86_400,
            description="From the call that asked until it is too late, granted or not",
        ),
    ] = unsent()
    record_inputs: Annotated[
        Literal["all", "log_only", "none"],
        Field(
            description="Whose arguments are kept, encrypted, beside the record that commits to "
            "them; without them a decision cannot be run again"
        ),
    ] = unsent()
    retention: Annotated[
        int, Field(ge=1, le=3650, description="Then arguments, reasons and results are erased")
    ] = unsent()
    breaker_repeats: _Repeats | None = unsent()
    breaker_refusals: _Refusals | None = unsent()
    breaker_action: Annotated[
        Literal["ask", "pause", "suspend"],
        Field(
            description="What comes of an agent above one of those: each of its calls asks a "
            "person, or it is put into that state"
        ),
    ] = unsent()


def create_now(
    registry: Registry, new: NewProject, first_key: NewKey, by: str = "operator"
) -> tuple[Row[Any], Row[Any], str]:
    """Make a project and its first key in one transaction: project row, key row, secret.

    For commands; blocks. Raises `Conflict` when the slug is taken.
    """
    project_id = ProjectId(new_id("prj"))

    def both(change: Change) -> tuple[Row[Any], Row[Any], str]:
        project = create(change, new)
        return project, *keys.create(change, first_key)

    return registry.change_now(Actor.operator(project_id, by), both)


def create(change: Change, new: NewProject) -> Row[Any]:
    """Make the project whose id the change's actor already bears. Raises `Conflict`."""
    if change.connection.execute(select(_p.id).where(_p.slug == new.slug)).first() is not None:
        raise Conflict(f"A project with the slug {new.slug} exists.")
    values = new.model_dump(mode="json")
    change.connection.execute(
        insert(tables.projects).values(
            id=change.project_id,
            deny_style="error",
            on_tool_change="block",
            unknown_tools="deny",
            hide_denied_tools=True,
            weakening=None,
            approval_ttl_seconds=1800,
            record_inputs="all",
            retention_days=30,
            created_at=change.now,
            **values,
        )
    )
    change.record("project.created", change.project_id, after=values)
    return get(change.connection, change.project_id)


def patch(change: Change, asked: ProjectPatch) -> Row[Any]:
    before = get(change.connection, change.project_id)
    sent = asked.model_dump(mode="json", exclude_unset=True)
    governed = _governed(change, before, dict(sent))
    if "retention" in sent:
        sent["retention_days"] = sent.pop("retention")
    if not sent:
        return before
    change.connection.execute(
        update(tables.projects).where(_p.id == change.project_id).values(**sent)
    )
    old = {name: getattr(before, name) for name in sent}
    change.record("project.changed", change.project_id, codes=governed, before=old, after=sent)
    return get(change.connection, change.project_id)


def _governed(change: Change, before: Row[Any], sent: dict[str, Any]) -> dict[str, Code]:
    names = {"retention": "retention_days"}
    old = {name: getattr(before, names.get(name, name)) for name in sent}
    compared, asked = dict(old), dict(sent)
    if "weakening" in sent:
        connection, now = change.connection, change.now
        compared["weakening"] = weakening.mode(connection, before.id, now)
        asked["weakening"] = sent["weakening"] or weakening.by_default(connection, before.id, now)
    loosened = loosened_settings(compared, asked)
    # Where loosening is forbidden, this alone may still be changed by two.
    kind = "project.weakening" if loosened == ["weakening"] else "project.patch"
    return weakening.govern(change, Wish(kind, None, sent, old), loosens=bool(loosened))


def get(connection: Connection, project_id: str) -> Row[Any]:
    """Raises `Missing`."""
    row = connection.execute(select(tables.projects).where(_p.id == project_id)).first()
    if row is None:
        raise Missing("project")
    return row


def all_of_them(connection: Connection) -> list[Row[Any]]:
    """Every project, oldest first; for commands."""
    return list(connection.execute(select(tables.projects).order_by(_p.id)))
