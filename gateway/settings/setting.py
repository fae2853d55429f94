"""How one setting is declared; `gateway.settings` has them all."""

from typing import Any

from pydantic import Field


def setting(default: Any, description: str, *, changed_by: str) -> Any:
    """A field; `changed_by` says who would ever set it, and when. Nobody: it is no setting."""
    return Field(default, description=description, json_schema_extra={"changed_by": changed_by})


def comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value
