"""The files that say what a project shall hold: their form, and all that is wrong in them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway import amounts
from gateway.configuration.items import Item, Noun, Scalar, item, params
from gateway.configuration.source import DocumentFault, Fault, Plain, Source, parse, spelled
from gateway.frozen import frozen
from gateway.registry.agents import NewAgent
from gateway.registry.budgets import Limit, OnExceed, WarnAt
from gateway.registry.fields import Description, Input, Name, Pem, Reason, ServerUrl, Time
from gateway.registry.rules import Pattern
from gateway.registry.servers import Connector, Slug, Transport
from gateway.values import Action, Risk

VERSION = 1
_PLAIN = {"extra_forbidden": "is no field here", "missing": "is missing"}
ENVIRONMENT = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
FILE = "file:"


def _reference(value: str) -> str:
    if not ENVIRONMENT.fullmatch(value) and len(value) <= len(FILE):
        raise ValueError("must be a reference: ${env:NAME} or file:PATH")
    if not ENVIRONMENT.fullmatch(value) and not value.startswith(FILE):
        raise ValueError("must be a reference, never the secret: ${env:NAME} or file:PATH")
    return value


Reference = Annotated[str, AfterValidator(_reference)]
Text = Annotated[str, Field(min_length=1, max_length=8192)]
"""Either the text itself or a reference to it."""


class NoAuth(Input):
    type: Literal["none"] = "none"


class Bearer(Input):
    type: Literal["bearer"]
    token: Reference


class Header(Input):
    type: Literal["header"]
    name: Text
    value: Reference


class Basic(Input):
    type: Literal["basic"]
    username: Text
    password: Reference


class ClientCredentials(Input):
    type: Literal["oauth_client_credentials"]
    token_url: Text
    client_id: Text
    client_secret: Reference
    client_auth: Literal["basic", "post"] = "basic"
    scope: str = ""
    resource: str = "server_url"


class AuthorizationCode(Input):
    type: Literal["oauth_authorization_code"]
    authorization_url: Text
    token_url: Text
    client_id: Text
    client_secret: Reference | None = None
    client_auth: Literal["basic", "post"] = "basic"
    scope: str = ""
    resource: str = "server_url"
    issuer: str | None = None


OAuth = ClientCredentials | AuthorizationCode
Auth = Annotated[NoAuth | Bearer | Header | Basic | OAuth, Field(discriminator="type")]


class ServerEntry(Input):
    slug: Slug
    name: Name
    server_url: ServerUrl | None = None
    transport: Transport = "streamable_http"
    connector_type: Connector = "custom"
    params: dict[str, JsonValue] = {}
    description: Description = ""
    auth: Auth = NoAuth()
    tls_ca: Pem | None = None
    is_proxied: bool = True
    enforcement: Literal["enforce", "monitor"] | None = None
    allow_private_network: bool = False
    status: Literal["PENDING_APPROVAL", "ACTIVE", "BLOCKED"] = "PENDING_APPROVAL"

    @model_validator(mode="after")
    def _templates_may_wait(self) -> Self:
        if self.connector_type != "custom":
            if None in self.params.values():
                raise ValueError("a parameter must not be null; leave it out, or write its value")
        elif self.server_url is None:
            raise ValueError("server_url is missing; only a template's server may wait for it")
        elif self.params:
            raise ValueError("params need a connector_type: they are a template's")
        return self


class RuleEntry(Input):
    agent: Name | None = None
    server: Slug | None = None
    tool: Name | None = None
    tool_pattern: Pattern | None = None
    min_risk: Risk | None = None
    action: Action
    expires_at: Time | None = None
    reason: Description = ""
    enabled: bool = True

    @model_validator(mode="after")
    def _one_tool(self) -> Self:
        if self.tool is not None and self.server is None:
            raise ValueError("a tool needs its server beside it; a tool_pattern does not")
        if self.tool is not None and self.tool_pattern is not None:
            raise ValueError("give either tool or tool_pattern")
        return self


class OverrideEntry(Input):
    policy: Name
    server: Slug
    agent: Name | None = None
    action: Action
    reason: Reason
    expires_at: Time


class BudgetEntry(Input):
    agent: Name | None = None
    server: Slug | None = None
    tool: Name | None = None
    dimension: Literal["requests", "cost"] = "requests"
    window: Literal["minute", "hour", "day", "month"]
    limit: Limit
    on_exceed: OnExceed = "BLOCK"
    warn_at: WarnAt = 80

    @field_validator("limit")
    @classmethod
    def _as_it_counts(cls, limit: int | str, others: ValidationInfo) -> int | str:
        if others.data.get("dimension") == "requests" and isinstance(limit, str):
            raise ValueError("must be a whole number of requests")
        return limit

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.agent is not None and (self.server or self.tool):
            raise ValueError("counts for an agent or for a server, not for both")
        if self.tool is not None and self.server is None:
            raise ValueError("a tool needs its server beside it")
        return self


Entry = NewAgent | ServerEntry | RuleEntry | OverrideEntry | BudgetEntry

SECTIONS: Mapping[str, tuple[Noun, type[Entry]]] = {
    "agents": ("agent", NewAgent),
    "servers": ("server", ServerEntry),
    "rules": ("rule", RuleEntry),
    "overrides": ("override", OverrideEntry),
    "budgets": ("budget", BudgetEntry),
}


@frozen
class Document:
    """All files together."""

    items: tuple[Item, ...]
    nouns: frozenset[Noun]
    """Of which the files have a section, maybe an empty one; the others are not theirs."""


def read(files: Iterable[Path]) -> Document:
    """Raises `DocumentFault` with all that is wrong in all of them."""
    faults: list[Fault] = []
    items: list[Item] = []
    nouns: set[Noun] = set()
    for path in files:
        try:
            source = parse(str(path), path.read_bytes())
        except OSError as error:
            faults.append(Fault(str(path), 1, "", f"cannot be read: {error.strerror}"))
        except DocumentFault as fault:
            faults += fault.faults
        else:
            items += _entries(source, path.parent, nouns, faults)
    faults += _doubles(items)
    if faults:
        raise DocumentFault(faults)
    return Document(tuple(items), frozenset(nouns))


def _entries(source: Source, folder: Path, nouns: set[Noun], faults: list[Fault]) -> list[Item]:
    if not isinstance(source.value, dict):
        faults.append(Fault(source.file, 1, "", f"must hold version: {VERSION} and sections"))
        return []
    given = source.value.get("version")
    if given != VERSION or given is True:
        message = f"must be {VERSION}" if "version" in source.value else "is missing; write 1"
        faults.append(Fault(source.file, source.line(["version"]), "version", message))
    found = []
    for section, content in source.value.items():
        if section == "version":
            continue
        if section not in SECTIONS:
            known = ", ".join(SECTIONS)
            message = f"is no section; there are {known}"
            faults.append(Fault(source.file, source.line([section]), section, message))
        elif not isinstance(content, list):
            message = "must be a list; write [] for an empty one"
            faults.append(Fault(source.file, source.line([section]), section, message))
        else:
            nouns.add(SECTIONS[section][0])
            found += _section(source, section, content, folder, faults)
    return found


def _section(
    source: Source, section: str, content: list[Plain], folder: Path, faults: list[Fault]
) -> list[Item]:
    noun, model = SECTIONS[section]
    found = []
    for number, value in enumerate(content):
        path = (section, number)
        try:
            entry = model.model_validate_json(orjson.dumps(value))
        except ValidationError as error:
            faults += _faults(source, path, error)
        else:
            found.append(_item(noun, entry, f"{source.file}:{source.line(path)}", folder))
    return found


def _faults(source: Source, path: tuple[str, int], error: ValidationError) -> Iterable[Fault]:
    # Neither input nor context is asked for: a value with a fault may be a secret.
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        # Of a union pydantic also names the member that it took: `auth.bearer.token`.
        tagged = fault["loc"][:1] == ("auth",) and len(fault["loc"]) > 2
        inner = ("auth", *fault["loc"][2:]) if tagged else fault["loc"]
        where = (*path, *inner)
        message = _PLAIN.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
        yield Fault(source.file, source.line(where), spelled(where), message)


def _item(noun: Noun, entry: Entry, place: str, folder: Path) -> Item:
    values: dict[str, Scalar] = entry.model_dump(mode="json", exclude={"auth", "params"})
    if isinstance(entry, BudgetEntry) and entry.dimension == "cost":
        # As the gateway shows it, or `25` and `"25.00"` would differ for ever.
        values["limit"] = amounts.shown(amounts.of_setting(entry.limit))
    if not isinstance(entry, ServerEntry):
        return item(noun, values, place=place)
    for name in ("status", "connector_type"):
        if name not in entry.model_fields_set:
            del values[name]
    values |= {"server_url": entry.server_url or "", **params(entry.params)}
    given = entry.auth.model_dump(exclude_none=True)
    auth = {name: _anchored(text, folder) for name, text in given.items()}
    return item(noun, {**values, "auth_type": entry.auth.type}, auth=auth, place=place)


def _anchored(text: str, folder: Path) -> str:
    if not text.startswith(FILE):
        return text
    return FILE + str(folder.absolute() / text.removeprefix(FILE))


def _doubles(items: Iterable[Item]) -> Iterable[Fault]:
    first: dict[tuple[object, ...], Item] = {}
    for one in items:
        # Rules and budgets of one scope may differ, such as a stricter one for a time.
        told_apart = () if one.noun in ("agent", "server") else tuple(one.fields.values())
        before = first.setdefault((one.key, told_apart), one)
        if before is not one:
            file, _, line = one.place.rpartition(":")
            message = f"the {one.noun} {one.name} is in {before.place} already"
            yield Fault(file, int(line), "", message)
