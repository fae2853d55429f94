"""The settings of cold storage, where old records of the log go."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from gateway.settings.setting import setting as _setting

_S3 = "s3://"
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w.-]+)*/?")


class ColdSettings(BaseSettings):
    """A part of `gateway.settings.Settings`."""

    cold_store: str | None = _setting(
        None,
        "Where old records go: a folder, or `s3://bucket/prefix` (credentials and region as S3's "
        "tools have them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, or the "
        "machine's role). Without it all records stay in the database.",
        changed_by="whoever keeps more records than the database should hold (`docs/evidence.md`)",
    )
    cold_endpoint: str | None = _setting(
        None,
        "URL of the S3 service, such as `https://minio.example.com`; without it Amazon's.",
        changed_by="whoever has an object storage of another kind",
    )
    cold_after_days: Annotated[int, Field(ge=2, le=36_500)] = _setting(
        90, "How old a record is when it goes there.", changed_by="the same person"
    )

    @field_validator("cold_store", mode="after")
    @classmethod
    def _a_place(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.startswith(_S3):
            if "://" in value:
                raise ValueError("must be a folder, or s3://bucket/prefix")
            return str(Path(value).expanduser().absolute())
        if _BUCKET.fullmatch(value) is None:
            raise ValueError("must be s3://bucket or s3://bucket/prefix")
        return value.rstrip("/")

    @field_validator("cold_endpoint", mode="after")
    @classmethod
    def _an_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise ValueError("must be http:// or https://, a host and maybe a port")
        return value
