"""Identifiers that say what they name and sort by the time they were made."""

from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """Return ``<prefix>_<32 hex digits>``, a UUIDv7 (RFC 9562, section 5.7)."""
    return f"{prefix}_{uuid7().hex}"


def made_at(made_id: str) -> float:
    """When an id was made, in seconds since 1970. Raises ValueError for what was made elsewhere."""
    return int(made_id.rpartition("_")[2][:12], 16) / 1000
