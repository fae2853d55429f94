"""Who signs in, as a value."""

from typing import NewType

from gateway.frozen import frozen
from gateway.values import ProjectId, Role

UserId = NewType("UserId", str)


@frozen
class User:
    """A person who signs in. Keys and agents name their owners by the same name."""

    id: UserId
    project_id: ProjectId
    name: str
    role: Role
    """Never `PROJECT`: people make no tool calls."""
    has_password: bool = True
    """False for who signs in at an identity provider."""
