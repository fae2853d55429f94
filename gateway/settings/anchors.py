"""The settings of what vouches for the log outside, and of what gets a copy of it."""

import re
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_core.core_schema import ValidationInfo
from pydantic_settings import BaseSettings, NoDecode

from gateway.settings.setting import comma_separated
from gateway.settings.setting import setting as _setting

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_KEY = re.compile(r"(0x)?[0-9a-fA-F]{64}")


class AnchorSettings(BaseSettings):
    """A part of `gateway.settings.Settings`."""

    flare_rpc_url: str | None = _setting(
        None,
        "JSON-RPC URL of a Flare node; with it heads of the log are anchored on Flare.",
        changed_by="whoever anchors on Flare",
    )
    flare_second_rpc_url: str | None = _setting(
        None,
        "A second node, asked when the first does not answer; both must show an anchor.",
        changed_by="whoever anchors on Flare in production",
    )
    flare_chain_id: Annotated[int, Field(ge=1)] | None = _setting(
        None,
        "The chain: 14 is Flare, 114 its test network Coston2.",
        changed_by="whoever anchors on Flare",
    )
    flare_contract: str | None = _setting(
        None,
        "Address of the contract that `gateway anchor deploy` made.",
        changed_by="whoever anchors on Flare",
    )
    flare_key_file: Path | None = _setting(
        None,
        "The key that pays and signs, as an encrypted keystore (version 3).",
        changed_by="whoever anchors on Flare",
    )
    flare_password_file: Path | None = _setting(
        None, "File with the keystore's password.", changed_by="whoever anchors on Flare"
    )
    flare_key: SecretStr | None = _setting(
        None,
        "The key itself, 32 bytes in hex, instead of a keystore.",
        changed_by="whoever gets secrets from a vault by the environment",
    )
    flare_successor: str | None = _setting(
        None,
        "Address of a key kept offline that may anchor when the present one is lost; it is "
        "recorded in the log.",
        changed_by="whoever anchors on Flare in production",
    )
    flare_daily_cap: Annotated[Decimal, Field(gt=0, le=1_000_000)] = _setting(
        Decimal(100),
        "The most that a day's anchors may cost, in FLR. When it gets short, anchors go further "
        "apart.",
        changed_by="whoever anchors on Flare",
    )
    anchor_urgent_seconds: Annotated[float, Field(ge=1)] = _setting(
        30.0,
        "Within how many seconds a blocked decision or a risky call is anchored.",
        changed_by="whoever weighs the price of anchors against their delay",
    )
    anchor_routine_seconds: Annotated[float, Field(ge=1)] = _setting(
        600.0, "The same for all other records.", changed_by="the same person"
    )
    anchor_tsa_url: str | None = _setting(
        None,
        "URL of a time-stamp authority (RFC 3161) that stamps heads of the log.",
        changed_by="whoever needs qualified time stamps",
    )
    anchor_tsa_roots: Path | None = _setting(
        None, "PEM file with the authority's root certificates.", changed_by="the same person"
    )
    anchor_path: Path | None = _setting(
        None,
        "A folder, or a file that is appended to, that gets each anchored head: best on storage "
        "that this machine cannot change afterwards.",
        changed_by="whoever has append-only storage",
    )

    sinks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_separated)] = _setting(
        (),
        "Where each record goes too, separated by commas: `stdout`, `file:///path`, "
        "`syslog+tls://host`, `syslog+tcp://host`, `https://host/path`.",
        changed_by="whoever has a SIEM",
    )
    sink_token: SecretStr | None = _setting(
        None, "Bearer token for HTTPS sinks.", changed_by="whoever has a SIEM that asks for one"
    )

    @field_validator("flare_contract", "flare_successor", mode="after")
    @classmethod
    def _a_contract(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError(f"{value!r} is no address; it is 0x and 40 hex digits")
        return value

    @field_validator("flare_key", mode="after")
    @classmethod
    def _a_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and not _KEY.fullmatch(value.get_secret_value()):
            raise ValueError("must be 32 bytes in hex")
        if value is not None and info.data.get("flare_key_file") is not None:
            raise ValueError("set GATEWAY_FLARE_KEY or GATEWAY_FLARE_KEY_FILE, not both")
        return value

    @field_validator("flare_daily_cap", mode="after")
    @classmethod
    def _complete(cls, value: Decimal, info: ValidationInfo) -> Decimal:
        seen = info.data
        if seen.get("flare_rpc_url") is None or "flare_key" not in seen:
            return value
        missing = []
        if seen.get("flare_chain_id", 1) is None:
            missing.append("GATEWAY_FLARE_CHAIN_ID (14 is Flare, 114 Coston2)")
        if seen["flare_key"] is None and seen.get("flare_key_file") is None:
            missing.append("GATEWAY_FLARE_KEY_FILE with GATEWAY_FLARE_PASSWORD_FILE")
        if seen.get("flare_key_file") is not None and seen.get("flare_password_file") is None:
            missing.append("GATEWAY_FLARE_PASSWORD_FILE")
        if missing:
            raise ValueError(f"anchoring on Flare also needs {', '.join(missing)}")
        return value

    @field_validator("anchor_tsa_roots", mode="after")
    @classmethod
    def _with_roots(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("anchor_tsa_url") is not None and value is None:
            raise ValueError("set it too: an unverified time stamp proves nothing")
        return value

    @field_validator(
        *("flare_key_file", "flare_password_file", "anchor_tsa_roots", "anchor_path"), mode="after"
    )
    @classmethod
    def _whole_path(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()


def own_first(fields: dict[str, FieldInfo], own: Collection[str]) -> dict[str, FieldInfo]:
    """The settings as a page lists them: what every installation sets comes first."""
    later = {name: field for name, field in fields.items() if name not in own}
    return {name: field for name, field in fields.items() if name in own} | later
