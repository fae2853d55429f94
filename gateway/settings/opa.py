"""Where OPA is, when the gateway does not run its own."""

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import field_validator
from pydantic_settings import BaseSettings

from gateway.settings.setting import setting

LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""`sockaddr_un` holds one byte more, for the NUL."""

OpaPlace = Path | tuple[str, int]
"""A Unix socket, or a loopback address and a port."""

_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
_DEFAULT_PORT = 8181


class OpaSettings(BaseSettings):
    """The part of `gateway.settings.Settings` for an OPA that somebody else runs."""

    opa_url: str | None = setting(
        None,
        "An OPA that somebody else runs beside the gateway (`docs/deployment.md`): "
        "`unix:///run/opa/opa.sock`, or `http://127.0.0.1:8181` where nobody else can listen "
        "there. Without it the gateway runs its own.",
        changed_by="whoever runs OPA as a container of its own",
    )

    @property
    def opa_place(self) -> OpaPlace | None:
        return None if self.opa_url is None else opa_place(self.opa_url)

    @field_validator("opa_url", mode="after")
    @classmethod
    def _beside_the_gateway(cls, value: str | None) -> str | None:
        if value is not None:
            opa_place(value)
        return value


def opa_place(url: str) -> OpaPlace:
    """Raises ValueError for a place that is not on this machine.

    OPA is told the arguments of every call and decides on them: one across a network could be
    listened to, and spoken for, because plain HTTP proves nobody.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        if len(os.fsencode(parts.path)) > LONGEST_SOCKET_PATH:
            raise ValueError(f"a socket's path has at most {LONGEST_SOCKET_PATH} bytes")
        return Path(parts.path)
    plain = parts.scheme == "http" and parts.path in ("", "/") and "@" not in parts.netloc
    if plain and not parts.query and not parts.fragment and parts.hostname in _LOOPBACK:
        return _LOOPBACK[parts.hostname], parts.port or _DEFAULT_PORT
    raise ValueError(
        "must be unix:///path/of/the/socket, or http://127.0.0.1 with a port: OPA runs beside the "
        "gateway, on the same machine or in the same pod"
    )
