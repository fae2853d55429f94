"""What a platform, or an agent of one's own, says of a tool call that does not pass the proxy."""

from collections.abc import Mapping
from dataclasses import field

from gateway.frozen import frozen


@frozen
class Event:
    """One event of the Extension API, as far as a call and its record need it."""

    sender: str
    """Who sent it: `ext_…`, or a project key's id."""
    id: str
    type: str
    risk: str
    """What is presumed of a tool that no scan knows, from its name and description: `Risk`."""
    codes: Mapping[str, str] = field(default_factory=dict)
    """Bounded names for the record: platform, the platform's own id of the agent, …"""
    body: bytes = b""
    """The whole event as JSON, for the erasable payload; empty when it is not to be kept."""
