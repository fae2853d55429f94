"""What approvals must do, the simple way: one thing after the other, in memory, without a clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.values import Fate

TTL = 3600
"""Seconds."""
Result = tuple[Any, ...]


@dataclass(frozen=True)
class Kind:
    """A call, as far as it matters to whom and to what its approval is bound."""

    asks: bool = True
    arguments: str = "Account"
    policy: str = "test.policy"
    by: str = "key_1"
    quorum: int = 1
    approvers: tuple[str, ...] | None = None


KINDS = {
    "one": Kind(),
    "other arguments": Kind(arguments="Contact"),
    "other policy": Kind(policy="test.another"),
    "other agent": Kind(by="key_2"),
    "two people": Kind(quorum=2),
    "Ben alone": Kind(approvers=("Ben",)),
    "free": Kind(asks=False),
}
"""All but the last are near misses of each other: one thing differs from the first."""
OWNERS = {"key_1": "olga", "key_2": "otto"}
"""Of keys and their agents."""


@dataclass
class Approval:
    """The model of one row."""

    kind: str
    definition: str
    made: int
    state: str = "PENDING"
    votes: list[str] = field(default_factory=list)
    spent_by: int | None = None

    def expired(self, now: int) -> bool:
        return now - self.made >= TTL


@dataclass
class Model:
    now: int = 0
    definition: str = "d" * 64
    """Of the tool, as it is accepted now."""
    rows: list[Approval] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    charged: int = 0
    stopped: bool = False

    def call(self, number: int, kind: str) -> Result:
        if self.stopped:
            return ("emergency_stop",)
        if not KINDS[kind].asks:
            self.open.add(number)
            return ("passed",)
        of_it = [
            (place, row)
            for place, row in enumerate(self.rows)
            if (row.kind, row.definition) == (kind, self.definition)
        ]
        for _, row in of_it:
            if row.state == "APPROVED" and row.spent_by is None and not row.expired(self.now):
                row.spent_by = number
                self.open.add(number)
                return ("passed",)
        for place, row in reversed(of_it):
            if row.state in ("PENDING", "DENIED") and not row.expired(self.now):
                denied = row.state == "DENIED"
                return ("approval_denied" if denied else "approval_required", place)
        self.rows.append(Approval(kind, self.definition, self.now))
        newest = of_it[-1][1] if of_it else None
        ran_out = (
            newest is not None
            and newest.state in ("PENDING", "APPROVED")
            and newest.spent_by is None
            and newest.expired(self.now)
        )
        return ("approval_expired" if ran_out else "approval_required", len(self.rows) - 1)

    def decide(self, place: int, verb: str, person: str) -> Result:
        row = self.rows[place]
        kind = KINDS[row.kind]
        if row.state != "PENDING" or row.expired(self.now):
            return ("Conflict",)
        if verb == "deny":
            row.state = "DENIED"
            return ("done",)
        if kind.approvers is not None and person not in kind.approvers:
            return ("Forbidden",)
        if person.casefold() == OWNERS[kind.by]:
            return ("Forbidden",)
        if person.casefold() in {voter.casefold() for voter in row.votes}:
            return ("Conflict",)
        row.votes.append(person)
        if len(row.votes) == kind.quorum:
            row.state = "APPROVED"
        return ("done",)

    def stop(self) -> Result:
        self.stopped = True
        for row in self.rows:
            if row.expired(self.now):
                continue
            if row.state == "PENDING":
                row.state = "DENIED"
            elif row.state == "APPROVED" and (row.spent_by is None or row.spent_by in self.open):
                row.state = "WITHDRAWN"
        return ("done",)

    def settle(self, number: int, fate: Fate) -> Result:
        if number in self.open:
            self.open.discard(number)
            if fate is not Fate.NOT_FORWARDED:
                self.charged += 1
            for row in self.rows:
                if row.spent_by == number and fate is Fate.NOT_FORWARDED:
                    row.spent_by = None
        return ("done",)

    def restart(self) -> None:
        """What was admitted and open is unknown then: it stays charged, its grant spent."""
        self.charged += len(self.open)
        self.open.clear()

    def seen(self) -> Sequence[Any]:
        """The rows of approvals, and last what the budget has used and holds."""
        rows: list[Any] = [(row.state, row.spent_by, sorted(row.votes)) for row in self.rows]
        return [*rows, (self.charged, len(self.open))]
