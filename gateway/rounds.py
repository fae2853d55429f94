"""What a call may go on under when its tool asks for more input."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.frozen import frozen


@frozen
class Continuation:
    """A spent grant under which a call goes on."""

    approval_id: str
    round: int
    """How many times it has gone on before; each number is good for one call."""
    base: Mapping[str, Any]
    """What of the params stood for its round when the grant was given: JSON values."""

    def next(self) -> "Continuation":
        """As the call that went on has it."""
        return replace(self, round=self.round + 1)
