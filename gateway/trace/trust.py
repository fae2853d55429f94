"""What the auditor brings to a bundle: nothing in the bundle is believed without it."""

from gateway.frozen import frozen
from gateway.trace.note import VerifierKey


@frozen
class Trust:
    key: VerifierKey
    previous: str | None = None
    """A checkpoint, as a note, that was seen earlier."""
    writer: str | None = None
    """The address that anchors are signed by; None accepts and names any."""
    rpc: str | None = None
    """A node of the chain to ask whether it took the anchors."""
    min_size: int = 0
    """How many records the logs must have at least, all together."""
    tsa_ca: bytes | None = None
    """Roots of time-stamp authorities, PEM; None believes no time stamp."""
