"""The settings of sign-in through an OpenID Connect provider."""

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, field_validator
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import BaseSettings, NoDecode

from gateway.settings.setting import setting as _setting
from gateway.values import Role

ROLES = (Role.ADMIN, Role.APPROVER, Role.AUDITOR)
"""What people may be; who is in groups of several gets the first."""


def _roles(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        group, _, role = part.rpartition("=")
        if not group.strip() or role.strip() not in ROLES:
            raise ValueError(f"{part!r} is no group=role; roles are {', '.join(ROLES)}")
        found.append((group.strip(), Role(role.strip())))
    return tuple(found)


class OidcSettings(BaseSettings):
    """A part of `gateway.settings.Settings`."""

    oidc_issuer: str | None = _setting(
        None,
        "Issuer of an OpenID Connect provider; with it people can sign in to the dashboard there.",
        changed_by="whoever has single sign-on",
    )
    oidc_client_id: str | None = _setting(
        None,
        "The client that the gateway is to the provider. Its redirect URI is "
        "`/dashboard/sign-in/oidc/back` of `GATEWAY_PUBLIC_URL`.",
        changed_by="whoever has single sign-on",
    )
    oidc_client_secret_file: Path | None = _setting(
        None,
        "File with the client's secret; without it the client is a public one.",
        changed_by="whoever has single sign-on",
    )
    oidc_scopes: str = _setting(
        "openid profile email",
        "What is asked of the provider, separated by spaces; some give groups only with `groups`.",
        changed_by="whoever has a provider that names groups by a scope",
    )
    oidc_groups_claim: str = _setting(
        "groups",
        "The ID token's claim that holds a person's groups.",
        changed_by="whoever has a provider that calls it otherwise",
    )
    oidc_roles: Annotated[tuple[tuple[str, Role], ...], NoDecode, BeforeValidator(_roles)] = (
        _setting(
            (),
            "Which group has which role, such as `ops=admin,oncall=approver,audit=auditor`. A "
            "person without any of these groups is refused.",
            changed_by="whoever has single sign-on",
        )
    )
    oidc_project: str | None = _setting(
        None,
        "Slug of the project that they belong to.",
        changed_by="whoever has several projects and single sign-on",
    )

    @field_validator("oidc_issuer", mode="after")
    @classmethod
    def _an_issuer(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("must be the provider's https:// URL, as its tokens name it in `iss`")
        if parts.query or parts.fragment:
            raise ValueError("must have neither query nor fragment")
        return value

    @field_validator("oidc_client_secret_file", mode="after")
    @classmethod
    def _a_secret(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if not os.access(value, os.R_OK) or not value.is_file():
            raise ValueError(f"cannot read {value}; check the path and who may read it")
        return value.expanduser().absolute()

    @field_validator("oidc_roles", mode="after")
    @classmethod
    def _all_there(
        cls, value: tuple[tuple[str, Role], ...], info: ValidationInfo
    ) -> tuple[tuple[str, Role], ...]:
        if info.data.get("oidc_issuer") is not None:
            if info.data.get("oidc_client_id", "") is None:
                raise ValueError("GATEWAY_OIDC_ISSUER also needs GATEWAY_OIDC_CLIENT_ID")
            if not value:
                raise ValueError("GATEWAY_OIDC_ISSUER also needs it: nobody could sign in")
        return value
