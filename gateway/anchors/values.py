"""What flows between the log, the outbox and the anchors."""

from dataclasses import field
from enum import StrEnum

from gateway.frozen import frozen


class State(StrEnum):
    """Of one anchor."""

    QUEUED = "queued"
    """Chosen; nothing has left, so a newer head may take its place."""
    SENDING = "sending"
    """Something was signed that may have left: this head is brought to its end."""
    FINAL = "final"
    VOID = "void"
    """Of a log that was sealed, because the anchor holds another history of it."""


class Condition(StrEnum):
    """How an anchor's backend stands; all but OK and STARTING are told to the operators."""

    STARTING = "starting"
    OK = "ok"
    UNREACHABLE = "unreachable"
    WRONG_CHAIN = "wrong_chain"
    FOREIGN_CODE = "foreign_code"
    UNFUNDED = "unfunded"
    CAPPED = "capped"
    """Nothing of the day's money is left for even one transaction."""
    STRETCHED = "stretched"
    """Anchoring goes on, further apart than the deadline, so that the money lasts."""
    STUCK = "stuck"
    NONCE_TAKEN = "nonce_taken"
    FORK = "fork"
    """The anchor holds another history under our name: an incident. Nothing more is anchored."""
    REFUSED = "refused"
    LATE = "late"
    """Twice the deadline has passed."""


@frozen
class Head:
    """A signed head of the log."""

    log: int
    origin: str
    size: int
    root: bytes
    note: str
    """The checkpoint as it was signed (C2SP tlog-checkpoint)."""


@frozen
class Anchor:
    """One row of the outbox."""

    id: str
    backend: str
    head: Head
    state: State
    created_at: str


@frozen
class Receipt:
    """What shows, later and elsewhere, that the head was known at a time."""

    at: str
    """RFC 3339; by the anchor's own clock where it has one."""
    tx_hash: str | None = None
    block: int | None = None
    chain_id: int | None = None
    contract: str | None = None
    writer: str | None = None
    proof: bytes = field(default=b"", repr=False)
    """What the backend keeps: a time-stamp response, the signed transaction."""


@frozen
class Final:
    """The head is anchored."""

    receipt: Receipt


@frozen
class Waiting:
    """Nothing more can be done for now; ask again in `seconds`."""

    condition: Condition
    detail: str
    seconds: float
    contradicts: bool = False
    """The anchor holds what our own log's key signed once, and the database does not."""


@frozen
class Known:
    """The newest head of a log that an anchor holds."""

    size: int
    root: bytes


Progress = Final | Waiting


class AnchorFault(Exception):
    """An anchor cannot do it now. `condition` says in which way, the message what to do."""

    def __init__(self, condition: Condition, message: str, *, contradicts: bool = False) -> None:
        super().__init__(message)
        self.condition = condition
        self.contradicts = contradicts
