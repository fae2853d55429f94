"""Servers made from a connector template, and their step to a template's next version."""

from typing import Annotated, Any

from pydantic import Field, JsonValue
from sqlalchemy import Row, update

from gateway.registry import servers, templates
from gateway.registry.core import Change
from gateway.registry.faults import Conflict, Invalid
from gateway.registry.fields import Input, Name, Reason, Url
from gateway.registry.servers import NewServer, Slug
from gateway.store import tables

_s = tables.servers.c


class FromTemplate(Input):
    template: Name
    server_url: Annotated[
        Url | None,
        Field(description="Without it the server waits for one"),
    ] = None
    name: Annotated[Name | None, Field(description="The template's title by default")] = None
    slug: Slug | None = None
    """Its name in Rego, for good; without it a free one is made from the name."""
    params: Annotated[
        dict[str, JsonValue], Field(description="What is not given gets the template's default")
    ] = {}


class NextVersion(Input):
    """The version is the one that was shown: another one is not accepted with it."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    reason: Reason


def create(change: Change, new: FromTemplate) -> Row[Any]:
    """A server bound to the template, waiting for approval. Raises `Invalid`, `Conflict`."""
    template = change.templates.get(new.template)
    if template is None:
        templates.columns(change.templates, new.template, {}, "template")
        raise Invalid({"template": "is no template"})
    # Unchecked, because "no URL yet" is what only a template's server may say.
    wanted = NewServer.model_construct(
        {"name", "server_url", "connector_type"},
        name=new.name or template.title,
        slug=new.slug,
        server_url=new.server_url or "",
        connector_type=template.name,
    )
    return servers.register(change, wanted, new.params)


def accept_version(change: Change, server_id: str, asked: NextVersion) -> Row[Any]:
    """Accept what the template's present version says, with defaults for its new parameters.

    Raises `Conflict` when it is not the version that was shown, or there is nothing to accept;
    `Invalid` when the server's parameters do not fit it.
    """
    before = servers.get(change.connection, change.project_id, server_id)
    if before.connector_type == templates.CUSTOM:
        raise Conflict("This server has no template.")
    template = templates.bound(change.templates, before)
    if template.version != asked.version:
        raise Conflict(f"The template's version is {template.version} by now; look at it again.")
    if before.template_version == template.version:
        raise Conflict(f"Version {template.version} is accepted already.")
    # What the new version does not know any more is dropped; what it holds otherwise is refused.
    kept = {name: value for name, value in before.params.items() if name in template.defaults}
    values = {
        "params": templates.checked(template, {**template.defaults, **kept}),
        **templates.accepted(template),
    }
    change.connection.execute(update(tables.servers).where(_s.id == server_id).values(**values))
    names = ("params", "template_version")
    change.record(
        "server.template_accepted",
        server_id,
        codes={"server": server_id, "template": template.name, "version": template.version},
        before={name: getattr(before, name) for name in names},
        after={name: values[name] for name in names},
        reason=asked.reason,
    )
    return servers.get(change.connection, change.project_id, server_id)
