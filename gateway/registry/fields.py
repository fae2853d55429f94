"""The kinds of field that inputs are made of: bounded names, reasons, times; and their models."""

import re
import ssl
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from gateway import amounts

MAX_NAME = 128
"""Bytes of UTF-8."""
PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _name(value: str) -> str:
    if len(value.encode()) > MAX_NAME:
        raise ValueError(f"must have at most {MAX_NAME} bytes")
    # Invisible and direction-changing characters would let one name pass for another.
    if _CONTROL.search(value):
        raise ValueError("must not hold control or invisible characters")
    if value != value.strip():
        raise ValueError("must not begin or end with a space")
    return value


def _time(value: str) -> str:
    if not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time, such as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is no time that exists") from None
    if moment.year < 1970:
        raise ValueError("is before 1970")
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


STDIO = "stdio"


def _server_url(value: str) -> str:
    if re.fullmatch(rf"{STDIO}:[a-z][a-z0-9_]{{0,63}}", value):
        return value
    if value.startswith(f"{STDIO}:"):
        raise ValueError("must be stdio: and a name of the operator's file of stdio servers")
    return _url(value)


def _url(value: str) -> str:
    if re.search(r"[\x00-\x20\x7f\\]", value) or not value.isascii():
        raise ValueError("must be a URL in ASCII without spaces; write other hosts in Punycode")
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port != 0
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in PORTS or not parts.hostname or not port_is_valid:
        raise ValueError("must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("must not hold a password; send it as auth")
    if "#" in value:
        raise ValueError("must not hold a fragment")
    return value


def _pem(value: str) -> str:
    if "PRIVATE KEY" in value:
        raise ValueError("holds a private key; send certificates only")
    try:
        if not value.isascii():  # a TypeError to the library
            raise ValueError
        ssl.create_default_context(cadata=value)
    except (ssl.SSLError, ValueError):
        raise ValueError("must be certificates in PEM") from None
    return value


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold NUL")
    return value


def _amount(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('must be a whole number, or decimal text such as "12.50"')
    amounts.of_setting(value)  # a ValueError says what is wrong
    return value


Amount = Annotated[
    int | str,
    PlainValidator(_amount),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": amounts.MOST // amounts.MICROS},
                {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?$"},
            ]
        }
    ),
]
"""Of money: a whole number, or decimal text such as ``"12.50"``."""
Name = Annotated[str, Field(min_length=1), AfterValidator(_name)]
Reason = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_no_nul)]
Description = Annotated[str, Field(max_length=4000), AfterValidator(_no_nul)]
Term = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_no_nul)]
"""A name that others chose, or a part of one, to be looked for."""
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Url = Annotated[str, Field(max_length=2048), AfterValidator(_url)]
ServerUrl = Annotated[str, Field(max_length=2048), AfterValidator(_server_url)]
"""Also ``stdio:NAME``, where NAME is an entry of the operator's file."""
Pem = Annotated[str, Field(min_length=1, max_length=65536), AfterValidator(_pem)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, AfterValidator(_time), Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 with any offset; kept in the form of `gateway.clock.rfc3339`."""


def folded(name: str) -> str:
    """A person's name as it is compared: no two people are told apart by case or by width."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


class Input(BaseModel):
    """What somebody sends: exact types, no unknown members, every fault at once."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class Patch(Input):
    """A change of some fields; those that are not sent stay as they are."""

    def sent(self) -> dict[str, Any]:
        """The fields that were sent, by name."""
        return self.model_dump(exclude_unset=True)


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def unsent() -> Any:
    """The default of a patch's field: no value at all. Sending null is a fault of its own."""
    return Field(default=None, json_schema_extra=_without_default)
