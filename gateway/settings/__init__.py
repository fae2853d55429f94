"""What an operator can set, read from the environment; every fault is reported at once.

`Settings.read` is the way in. `python -m gateway.settings` writes ``docs/settings.md``.
"""

import difflib
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import NoDecode, SettingsConfigDict

from gateway.database_place import DATABASE, Place, postgres_url
from gateway.settings.anchors import AnchorSettings
from gateway.settings.cold import ColdSettings
from gateway.settings.oidc import OidcSettings
from gateway.settings.opa import OpaSettings
from gateway.settings.setting import comma_separated
from gateway.settings.setting import setting as _setting

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PREFIX = "GATEWAY_"
LOOPBACK_NAMES = ("127.0.0.1", "::1", "localhost")
LOOPBACK_NETWORKS = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_ADMIN_KEY_LENGTH = 32


class SettingsFault(Exception):
    """The environment cannot be used; `faults` holds one line for each thing to put right."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def _path_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part for part in value.split(os.pathsep) if part)
    return value


def _networks(value: object) -> object:
    if not isinstance(value, str):
        return value
    networks = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(f"{part!r} is no network; write it like 10.0.0.0/8") from None
    return tuple(networks)


_Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_separated)]
_Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_path_list)]
_Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(OidcSettings, ColdSettings, AnchorSettings, OpaSettings):
    """The deployment's settings, checked. Field `x_y` is the variable ``GATEWAY_X_Y``.

    Fields that are judged together are checked at the later one, which sees those before it:
    so a fault in one never hides a fault in another.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", validate_default=True
    )

    data_dir: Path = _setting(
        Path("data"),
        "Folder for the database, the keys and the bundles. Its disk decides how fast calls are.",
        changed_by="every installation",
    )
    database_url: SecretStr | None = _setting(
        None,
        "A PostgreSQL database that several gateways share: "
        "`postgresql://user:password@host:5432/gateway`. Without it SQLite in the data folder, "
        "for one gateway.",
        changed_by="whoever runs more than one gateway (`docs/postgresql.md`)",
    )
    host: str = _setting(
        "127.0.0.1",
        "Address that agents and administrators connect to.",
        changed_by="whoever serves other machines",
    )
    port: _Port = _setting(
        8080, "Port of it; 0 takes a free one.", changed_by="whoever has 8080 in use"
    )
    management_host: str = _setting(
        "127.0.0.1",
        "Address of the management listener (bundles, readiness details, metrics).",
        changed_by="whoever collects metrics from another machine",
    )
    management_port: _Port = _setting(
        8081, "Port of it; 0 takes a free one.", changed_by="whoever has 8081 in use"
    )
    public_url: str | None = _setting(
        None,
        "The URL under which clients reach the gateway, such as `https://gateway.example.com`.",
        changed_by="whoever runs it behind a proxy or under a name",
    )
    trusted_proxies: _Networks = _setting(
        (),
        "Networks, separated by commas, of the proxies whose `X-Forwarded-For` is believed.",
        changed_by="whoever runs it behind a reverse proxy",
    )
    allowed_hosts: _Names = _setting(
        (),
        "Further `Host` names that are answered, separated by commas, besides loopback names, "
        "`GATEWAY_HOST` and the host of `GATEWAY_PUBLIC_URL`.",
        changed_by="whoever reaches it under several names",
    )
    allowed_origins: _Names = _setting(
        (),
        "Web origins, separated by commas, that may call it from a browser, besides its own.",
        changed_by="whoever has an MCP client that runs in a web page",
    )
    tls_cert: Path | None = _setting(
        None,
        "PEM file with the certificate chain; with `GATEWAY_TLS_KEY` the gateway speaks HTTPS.",
        changed_by="whoever serves other machines without a reverse proxy",
    )
    tls_key: Path | None = _setting(
        None, "PEM file with the certificate's private key.", changed_by="the same person"
    )
    private_upstreams: _Networks = _setting(
        (),
        "Private networks, separated by commas, in which MCP servers may lie. A server must also "
        "be registered with `allow_private_network`.",
        changed_by="whoever has MCP servers inside the company's network",
    )
    stdio_servers: Path | None = _setting(
        None,
        "YAML file with the programs that may run as MCP servers (`docs/upstreams.md`); no API "
        "body can name a command.",
        changed_by="whoever has MCP servers that speak stdio",
    )
    stdio_unsafe: bool = _setting(
        False,
        "`1` runs stdio servers as the gateway itself, without isolation, where bubblewrap cannot "
        "be used; readiness says so. They can then read the data folder.",
        changed_by="whoever tries stdio servers on a machine without bubblewrap",
    )
    checkpoint_file: Path | None = _setting(
        None,
        "File to which the log's signed checkpoints are appended each minute, best on another "
        "disk or machine: it tells a database that was put back from a copy. Without it "
        "`checkpoints.ndjson` in the data folder; `off` for none.",
        changed_by="whoever must prove that nothing was put back, not even the whole data folder",
    )
    policy_dirs: _Paths = _setting(
        (),
        "Folders with the organisation's own Rego, separated by `:`.",
        changed_by="the security team that writes policies",
    )
    opa_bin: Path | None = _setting(
        None,
        "The `opa` program to use; its version must be exactly the pinned one. Without it, `opa` "
        "is looked for on `PATH` and where `gateway opa install` puts it.",
        changed_by="whoever packages OPA themselves",
    )
    decision_seconds: Annotated[float, Field(ge=0.05, le=60)] = _setting(
        0.25,
        "Within how long OPA must have decided a call; later, the call is refused.",
        changed_by="whoever runs it on a machine that is at times starved of CPU",
    )
    permit_seconds: Annotated[float, Field(ge=0.1, le=60)] = _setting(
        1.0,
        "Within how long an admitted call must leave for its MCP server; later, it is not sent. A "
        "gateway that cannot hear of a stop raised at another one outruns it by no more.",
        changed_by="whoever's disk at times needs most of a second for one flush",
    )
    tools_dir: Path | None = _setting(
        None,
        "Folder in which `gateway opa install` puts OPA; by default `.tools` in a checkout, "
        "otherwise in the user's data folder.",
        changed_by="whoever keeps programs in a folder of their own",
    )
    admin_key: SecretStr | None = _setting(
        None,
        "The first admin key that `gateway init` makes (`gwa_` and at least 32 characters); "
        "without it one is made and printed. `gateway serve` takes it while nobody is an admin: no "
        "key that lives, no person. Once an admin exists it has no effect.",
        changed_by="whoever installs by automation",
    )
    smtp_url: SecretStr | None = _setting(
        None,
        "The mail server for notifications: `smtps://user:password@mail.example.com`, or "
        "`smtp://…` with STARTTLS.",
        changed_by="whoever wants notifications by mail",
    )
    smtp_from: str = _setting(
        "policy-gateway@localhost", "The sender of these mails.", changed_by="the same person"
    )
    evaluate_profile: str | None = _setting(
        None,
        "Slug of the server whose policies answer `POST /api/evaluate`, the question of the public"
        " `mcpsec` benchmark; without it that path is not there.",
        changed_by="whoever measures the gateway with that benchmark",
    )
    approval_hold_seconds: Annotated[int, Field(ge=0, le=600)] = _setting(
        0,
        "How long a call that waits for a person is held open; then, or with 0 at once, it is "
        "answered that it waits. Clients and proxies in between must be as patient.",
        changed_by="whoever has clients that cannot come back",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "What is written to standard error.", changed_by="whoever looks for a fault"
    )
    bind_anyway: bool = _setting(
        False,
        "Listen beyond loopback although there is neither TLS nor a trusted proxy: keys then "
        "cross the network in clear.",
        changed_by="whoever has an encrypted network below, such as a service mesh",
    )

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Read the environment; `given` (by field name) goes before it. Raises `SettingsFault`."""
        faults = [_unknown(name) for name in sorted(os.environ) if _is_unknown(name)]
        try:
            settings = cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            faults.extend(_describe(fault) for fault in error.errors(include_url=False))
            raise SettingsFault(faults) from None
        if faults:
            raise SettingsFault(faults)
        return settings

    @property
    def database(self) -> Place:
        """Where the database is."""
        if self.database_url is None:
            return self.data_dir / DATABASE
        return postgres_url(self.database_url.get_secret_value())

    @property
    def hosts(self) -> frozenset[str]:
        """Every name or address, in lower case and without port, that `Host` may hold."""
        names = {*LOOPBACK_NAMES, self.host, *self.allowed_hosts}
        if self.public_url is not None:
            names.add(urlsplit(self.public_url).hostname or "")
        return frozenset(name.lower() for name in names if name not in ("0.0.0.0", "::", ""))

    @field_validator("data_dir", "tls_cert", "tls_key", "opa_bin", "tools_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        # A later change of the working directory must not move the data.
        return None if value is None else value.expanduser().absolute()

    @field_validator("data_dir", mode="after")
    @classmethod
    def _a_folder(cls, value: Path) -> Path:
        if value.exists() and not value.is_dir():
            raise ValueError(f"{value} is not a folder; name a folder, it is made when missing")
        return value

    @field_validator("host", "management_host", mode="after")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value != "localhost":
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError("must be an IP address of this machine, or localhost") from None
        return value

    @field_validator("database_url", mode="after")
    @classmethod
    def _a_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            postgres_url(value.get_secret_value())
        return value

    @field_validator("management_port", mode="after")
    @classmethod
    def _another_port(cls, value: int, info: ValidationInfo) -> int:
        if value != 0 and value == info.data.get("port"):
            raise ValueError("must differ from GATEWAY_PORT: the two listeners are kept apart")
        return value

    @field_validator("public_url", mode="after")
    @classmethod
    def _a_base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("must be http:// or https://, a host and maybe a port, nothing else")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError("must end after the host and port: paths begin at /api/v1")
        return value.rstrip("/")

    @field_validator("allowed_origins", mode="after")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if f"{parts.scheme}://{parts.netloc}" != origin or not parts.netloc:
                raise ValueError(f"{origin!r} is no origin; write it like https://app.example.com")
        return value

    @field_validator("tls_cert", "tls_key", "opa_bin", mode="after")
    @classmethod
    def _a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not os.access(value, os.R_OK):
            raise ValueError(f"cannot read {value}; check the path and who may read it")
        return value

    @field_validator("tls_key", mode="after")
    @classmethod
    def _a_pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert" in info.data and (value is None) != (info.data["tls_cert"] is None):
            raise ValueError("set GATEWAY_TLS_CERT and GATEWAY_TLS_KEY both, or neither")
        return value

    @field_validator("policy_dirs", mode="after")
    @classmethod
    def _folders(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        folders = tuple(folder.expanduser().absolute() for folder in value)
        for folder in folders:
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder; make it or take it off the list")
        return folders

    @field_validator("admin_key", mode="after")
    @classmethod
    def _a_strong_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            secret = value.get_secret_value()
            if not secret.startswith("gwa_") or len(secret) < len("gwa_") + _ADMIN_KEY_LENGTH:
                raise ValueError("must be gwa_ and at least 32 random characters")
        return value

    @field_validator("smtp_url", mode="after")
    @classmethod
    def _a_mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
                raise ValueError("must be smtps:// or smtp://, maybe user:password@, and a host")
        return value

    @field_validator("smtp_from", mode="after")
    @classmethod
    def _a_sender(cls, value: str) -> str:
        name, _, domain = value.rpartition("@")
        if not name or not domain or not value.isprintable() or not value.isascii() or " " in value:
            raise ValueError("must be a mail address, such as gateway@example.com")
        return value

    @field_validator("bind_anyway", mode="after")
    @classmethod
    def _not_in_clear(cls, value: bool, info: ValidationInfo) -> bool:
        seen = info.data
        safe = seen.get("tls_cert", True) or seen.get("trusted_proxies", True) or value
        for name in ("host", "management_host"):
            if not safe and not is_loopback(seen.get(name, "localhost")):
                raise ValueError(
                    f"{PREFIX}{name.upper()}={seen[name]} is beyond loopback and keys would cross "
                    "the network in clear; set GATEWAY_TLS_CERT and GATEWAY_TLS_KEY, or "
                    "GATEWAY_TRUSTED_PROXIES, or GATEWAY_BIND_ANYWAY=1 if that is meant"
                )
        return value


def is_loopback(host: str) -> bool:
    """True for an address, or the name, that only this machine can reach."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _is_unknown(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(PREFIX) and upper[len(PREFIX) :].lower() not in Settings.model_fields


def _unknown(name: str) -> str:
    if name.upper().endswith(("_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_ADDR", "_PROTO")):
        return (
            f"{name}: Kubernetes made it for a Service named gateway; "
            "set enableServiceLinks: false in the pod"
        )
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.75)
    hint = f"did you mean {near[0]}?" if near else "remove it, or see docs/settings.md"
    return f"{name}: no such setting; {hint}"


def _describe(fault: Any) -> str:
    field = str(fault["loc"][0])
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error" or field in ("admin_key", "smtp_url", "database_url"):
        return f"{PREFIX}{field.upper()}: {message}"
    given = fault["input"]
    if field == "port" and str(given).startswith("tcp://"):
        return _unknown(f"{PREFIX}PORT_TCP").replace("_PORT_TCP", "_PORT", 1)
    return f"{PREFIX}{field.upper()}: {message} (it is {given!r})"
