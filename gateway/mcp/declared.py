"""What a client says of itself: its capabilities, with each request or once in a session."""

from collections.abc import Mapping
from typing import Final

from gateway.values import Json

TASKS: Final = "io.modelcontextprotocol/tasks"
"""The official extension of 2026-07-28."""

_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"


def capabilities(params: Mapping[str, Json]) -> Json:
    """Those that a request of the modern era bears in `_meta`; None without."""
    meta = params.get("_meta")
    return meta.get(_CAPABILITIES) if isinstance(meta, Mapping) else None


def shows_pages(capabilities: Json) -> bool:
    """Whether a client declares elicitation by URL."""
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, Mapping) else None
    return isinstance(elicitation, Mapping) and isinstance(elicitation.get("url"), Mapping)


def takes_tasks(capabilities: Json) -> bool:
    """Whether a client of the modern era declares the tasks extension."""
    extensions = capabilities.get("extensions") if isinstance(capabilities, Mapping) else None
    return isinstance(extensions, Mapping) and isinstance(extensions.get(TASKS), Mapping)
