"""What a server keeps of its connector template: parameters, and the version that was accepted."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from gateway.policy.templates import Catalogue, Template
from gateway.registry.faults import Conflict, Invalid
from gateway.values import Json

CUSTOM = "custom"


def columns(
    catalogue: Catalogue, connector: str, params: Mapping[str, Json], field: str
) -> dict[str, Any]:
    """The columns of a new server, its parameters whole. Raises `Invalid`, naming ``field``."""
    if connector == CUSTOM:
        return {"params": {}, "template_version": None, "template_accepted": None}
    template = catalogue.get(connector)
    if template is None:
        raise Invalid({field: _missing(catalogue, connector)})
    return {"params": checked(template, {**template.defaults, **params}), **accepted(template)}


def accepted(template: Template) -> dict[str, Any]:
    """The columns that say which version a person saw."""
    return {"template_version": template.version, "template_accepted": snapshot(template)}


def merged(catalogue: Catalogue, server: Row[Any], sent: Mapping[str, Json]) -> dict[str, Json]:
    """The server's parameters with those that were sent; null gives one its default again.

    Raises `Invalid`; `Conflict` when the template is not there to hold them to.
    """
    if server.connector_type == CUSTOM:
        raise Invalid({"params": "a server without a template has no parameters"})
    template = bound(catalogue, server)
    asked: dict[str, Json] = {**server.params, **sent}
    for name, default in template.defaults.items():
        if name in asked and asked[name] is None:
            asked[name] = default
    return checked(template, asked)


def checked(template: Template, params: dict[str, Json]) -> dict[str, Json]:
    """Raises `Invalid` with every fault of the parameters."""
    faults = template.faults(params)
    if faults:
        raise Invalid(faults)
    return params


def bound(catalogue: Catalogue, server: Row[Any]) -> Template:
    """The template of a server that has one. Raises `Conflict` when it cannot be read."""
    template = catalogue.get(server.connector_type)
    if template is None:
        raise Conflict(_missing(catalogue, server.connector_type))
    return template


def available(catalogue: Catalogue, server: Row[Any]) -> Template | None:
    """As `bound`, but None for a server without a template, or without a readable one."""
    return None if server.connector_type == CUSTOM else catalogue.get(server.connector_type)


def snapshot(template: Template) -> dict[str, Any]:
    """What a person accepts with a version, to compare the next one with."""
    return {
        "policies": {
            policy.id: policy.model_dump(mode="json", include={"title", "action", "covers"})
            | {"tools": list(policy.tools)}
            for policy in template.policies
        },
        "parameters": dict(template.parameters["properties"]),
    }


def differences(server: Row[Any], template: Template) -> list[dict[str, Any]]:
    """What the present version of the template changes against the accepted one."""
    if server.template_version == template.version:
        return []
    before, now = server.template_accepted or {}, snapshot(template)
    return [
        {"kind": kind, "id": name, "before": old.get(name), "after": new.get(name)}
        for member, kind in (("policies", "policy"), ("parameters", "parameter"))
        for old, new in [(before.get(member, {}), now[member])]
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _missing(catalogue: Catalogue, name: str) -> str:
    if name in catalogue.faults():
        return f"the template {name} has faults and is not offered; the gateway's log names them"
    there = ", ".join(catalogue.templates()) or "none"
    return f"there is no template {name}; there are: {there}"
