"""`/extensions`: key and signing secret stand only in the answer to making or rotating one."""

from typing import Any

from pydantic import Field
from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import extensions
from gateway.registry.core import Change
from gateway.registry.extensions import NewExtension


class EntraOut(Output):
    tenant_id: str
    audience: str
    app_id: str
    issuers: list[str]
    jwks_url: str


class ExtensionOut(Output):
    id: str
    name: str
    type: str
    scopes: list[str]
    server_id: str
    agents: list[str]
    on_failure: str
    events_per_minute: int
    require_signature: bool
    keep_chat_history: bool
    entra: EntraOut | None
    state: str
    owner: str
    created_by: str
    rotated_by: str | None
    created_at: str
    last_seen: str | None
    events: int = Field(description="Events that were taken")
    errors: int = Field(description="Events and requests that were not")
    failed_open: int = Field(description="Calls let through because nothing could decide")
    last_error: str | None


class NewExtensionOut(ExtensionOut):
    key: str
    """The secret of its key: shown this once."""
    signing_secret: str
    """For HMAC signatures as Standard Webhooks defines them: shown this once."""


async def list_extensions(call: ApiCall, query: ListQuery) -> Listing[ExtensionOut]:
    page = await call.read(
        lambda c: extensions.listed(c, call.project_id, query.cursor, query.limit)
    )
    return listing(page, _shown)


async def create(call: ApiCall, body: NewExtension) -> NewExtensionOut:
    return await call.change(lambda change: _with_secrets(*extensions.create(change, body)))


async def rotate(call: ApiCall) -> NewExtensionOut:
    def change_it(change: Change) -> NewExtensionOut:
        return _with_secrets(*extensions.rotate(change, call.path["id"]))

    return await call.change(change_it)


async def remove(call: ApiCall) -> ExtensionOut:
    return await call.change(lambda change: _shown(extensions.remove(change, call.path["id"])))


def _shown(row: Row[Any]) -> ExtensionOut:
    values = dict(row._mapping)
    for count in ("events", "errors", "failed_open"):
        values[count] = values[count] or 0
    return ExtensionOut.model_validate(values)


def _with_secrets(row: Row[Any], key: str, signing_secret: str) -> NewExtensionOut:
    return NewExtensionOut(**_shown(row).model_dump(), key=key, signing_secret=signing_secret)
