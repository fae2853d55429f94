"""Identifiers that say what they name and sort by the time they were made."""

from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """Return ``<prefix>_<32 hex digits>``, a UUIDv7 (RFC 9562, section 5.7)."""
    return f"{prefix}_{uuid7().hex}"
