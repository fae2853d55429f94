"""What a gateway holds, as a file that brings another project there. No secret is in it."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from gateway.configuration.document import SECTIONS, VERSION
from gateway.configuration.items import PARAM, Item
from gateway.configuration.live import Live
from gateway.configuration.source import write

_CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "bearer": ("token",),
    "header": ("name", "value"),
    "basic": ("username", "password"),
    "oauth_client_credentials": ("token_url", "client_id", "client_secret"),
    "oauth_authorization_code": ("authorization_url", "token_url", "client_id", "client_secret"),
}


def export(live: Live, now: str) -> str:
    """YAML without what is the default, what has expired, and whatever is only for an agent that is
    revoked. Credentials are references to environment variables named after the server."""
    revoked = {one.name for one in live.items if one.revoked}
    document: dict[str, Any] = {"version": VERSION}
    for section, (noun, model) in SECTIONS.items():
        document[section] = [
            _entry(one, model)
            for one in live.items
            if one.noun == noun and _is_current(one, revoked, now)
        ]
    return write(document)


def _is_current(item: Item, revoked: set[str], now: str) -> bool:
    if item.revoked or item.scope.get("agent") in revoked:
        return False
    expires_at = item.fields.get("expires_at")
    return not (isinstance(expires_at, str) and expires_at <= now)


def _entry(item: Item, model: type[BaseModel]) -> dict[str, Any]:
    values: dict[str, Any] = {**item.scope, **item.fields}
    # What is read when they are left out is what is there: the default does not manage them.
    always = {"status"} | (
        {"connector_type"} if values.get("connector_type") != "custom" else set()
    )
    given = {n.removeprefix(PARAM): orjson.loads(str(values[n])) for n in values if PARAM in n}
    if given:
        values["params"] = given
    if values.get("server_url") == "":
        del values["server_url"]
    auth_type = values.pop("auth_type", "none")
    if auth_type != "none":
        values["auth"] = _placeholders(item.name, str(auth_type))
    return {
        name: values[name]
        for name, field in model.model_fields.items()
        if name in values
        and (name in always or field.is_required() or values[name] != field.default)
    }


def _placeholders(slug: str, auth_type: str) -> dict[str, str]:
    prefix = re.sub(r"[^A-Z0-9]", "_", slug.upper())
    names = _CREDENTIALS.get(auth_type, ())
    return {"type": auth_type, **{n: f"${{env:{prefix}_{n.upper()}}}" for n in names}}
