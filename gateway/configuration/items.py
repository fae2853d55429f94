"""What is compared: one agent, server, rule, override or budget, from a file or from a gateway."""

from collections.abc import Mapping
from dataclasses import field
from typing import Literal, TypeAlias

import orjson

from gateway.frozen import frozen

Noun = Literal["agent", "server", "rule", "override", "budget"]
Scalar: TypeAlias = str | int | bool | None

NOUNS: tuple[Noun, ...] = ("agent", "server", "rule", "override", "budget")

SCOPE: Mapping[Noun, tuple[str, ...]] = {
    "agent": ("name",),
    "server": ("slug",),
    "rule": ("agent", "server", "tool", "tool_pattern", "min_risk"),
    "override": ("policy", "server", "agent"),
    "budget": ("agent", "server", "tool", "dimension", "window"),
}
"""Which one it is. What else an item has may change; with another scope it is another item."""

FIELDS: Mapping[Noun, tuple[str, ...]] = {
    "agent": ("owner", "description"),
    "server": (
        *("name", "server_url", "transport", "connector_type", "description", "is_proxied"),
        *("enforcement", "allow_private_network", "auth_type", "tls_ca", "status"),
    ),
    "rule": ("action", "expires_at", "reason", "enabled"),
    "override": ("action", "expires_at", "reason"),
    "budget": ("limit", "on_exceed", "warn_at"),
}


PARAM = "params."
"""Begins the field of one parameter of a server's template; its value is JSON."""


@frozen
class Item:
    """`scope` and `fields` name agents, servers and tools as people do, never by id."""

    noun: Noun
    scope: Mapping[str, Scalar]
    fields: Mapping[str, Scalar]
    """Those that are managed: a file may leave out a server's `status` and `connector_type`."""
    auth: Mapping[str, str] = field(default_factory=dict, repr=False)
    """How a server's credential is written in the file: by reference."""
    place: str = ""
    """``file:line``; empty when it comes from a gateway."""
    id: str = ""
    """On the gateway; empty when it comes from a file."""
    revoked: bool = False
    """An agent that is revoked for good."""

    @property
    def key(self) -> tuple[Scalar, ...]:
        return (self.noun, *self.scope.values())

    @property
    def name(self) -> str:
        """What people call it."""
        scope = self.scope
        match self.noun:
            case "agent":
                return str(scope["name"])
            case "server":
                return str(scope["slug"])
            case "override":
                return f"{scope['policy']}{_where(scope)}"
            case "budget":
                return f"{scope['dimension']} a {scope['window']}{_where(scope)}"
            case "rule":
                what = scope["tool"] or scope["tool_pattern"] or "every call"
                risk = f" from {scope['min_risk']}" if scope["min_risk"] else ""
                return f"{what}{_where({**scope, 'tool': None})}{risk}"


def item(
    noun: Noun,
    values: Mapping[str, Scalar],
    *,
    auth: Mapping[str, str] | None = None,
    place: str = "",
    id: str = "",
    revoked: bool = False,
) -> Item:
    """From a mapping that holds the scope, and those fields that are managed."""
    scope = {name: values[name] for name in SCOPE[noun]}
    fields = {name: values[name] for name in FIELDS[noun] if name in values}
    fields |= {name: value for name, value in values.items() if name.startswith(PARAM)}
    return Item(noun, scope, fields, auth or {}, place, id, revoked)


def params(values: Mapping[str, object]) -> dict[str, Scalar]:
    """A template's parameters as fields, each compared for itself."""
    return {
        PARAM + name: orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        for name, value in values.items()
    }


def _where(scope: Mapping[str, Scalar]) -> str:
    tool = f" of {scope['tool']}" if scope.get("tool") else ""
    server = f" on {scope['server']}" if scope["server"] else ""
    agent = f" for {scope['agent']}" if scope["agent"] else ""
    return f"{tool}{server}{agent}"
