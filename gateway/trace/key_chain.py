"""From the key that an auditor trusts to those that it handed over to. Pure.

A log that goes on under another key says so in a record, `key_change`, and signs the head that ends
with this record with both keys: the old one thereby vouches for the new one, the new one for all
that is before. Needs what `gateway.trace.verify` needs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from gateway.trace import note
from gateway.trace.bundle import Bundle, HandedOver
from gateway.trace.merkle import extends, includes, leaf_hash
from gateway.trace.names import LogName
from gateway.trace.note import Checkpoint, NoteFault, VerifierKey

EVENT = "log_key.changed"


@dataclass(slots=True)
class Chain:
    """The public keys that are believed, the trusted one first, and what was found on the way."""

    keys: list[bytes]
    told: list[tuple[Literal["PASS", "FAIL"], str]] = field(default_factory=list)

    def checkpoint(self, signed: str, origin: str) -> Checkpoint:
        """As `note.checkpoint`, by any of the keys. Raises `NoteFault`: that of the trusted one."""
        return opened(signed, origin, self.keys)


def opened(signed: str, origin: str, keys: Iterable[bytes]) -> Checkpoint:
    """A checkpoint that one of the keys has signed. Raises `NoteFault`."""
    first: NoteFault | None = None
    for public in keys:
        try:
            return note.checkpoint(signed, VerifierKey(origin, public))
        except NoteFault as fault:
            first = first or fault
    raise first or NoteFault("there is no key to believe")


def follow(bundle: Bundle, trusted: VerifierKey) -> Chain:
    """Every hand-over of the bundle that begins at a key that is believed. A key that nobody who
    is believed handed over to is not: what it alone has signed fails."""
    chain = Chain([trusted.public])
    changes = [(number, one) for number in bundle.logs for one in bundle.hand_overs(number)]
    found = True
    while found:
        found = False
        for number, one in changes:
            if _one(bundle, number, one, trusted, chain):
                changes.remove((number, one))
                found = True
                break
    return chain


def _one(bundle: Bundle, number: int, one: HandedOver, trusted: VerifierKey, chain: Chain) -> bool:
    """Whether the hand-over was followed, or found wrong."""
    try:
        head = note.parse(bundle.text(f"logs/{number}/checkpoint.txt").rpartition("\n\n")[0] + "\n")
        if LogName.parse(head.origin).base != LogName.parse(trusted.name).base:
            return False
        before = chain.checkpoint(one.note, head.origin)
    except NoteFault:
        return False  # not of a key that is believed: it says nothing
    why = _fault(one, before, head)
    if why:
        chain.told.append(("FAIL", f"{head.origin} record {one.index}: {why}"))
        return True
    new = named(one.record)
    assert new is not None
    if new.public not in chain.keys:
        chain.keys.append(new.public)
        told = f"{head.origin} goes on under {new.id.hex()} from record {one.index}"
        chain.told.append(("PASS", told))
    return True


def _fault(one: HandedOver, before: Checkpoint, head: Checkpoint) -> str:
    leaf = leaf_hash(one.record)
    if one.index != before.size - 1 or not includes(
        one.index, before.size, leaf, one.proof, before.root
    ):
        return "the head that hands the key over does not end with it"
    if named(one.record) is None:
        return "it hands no key over"
    if (before.size, before.root) != (head.size, head.root) and not extends(
        before.size, before.root, head.size, head.root, one.consistency
    ):
        return "the checkpoint does not extend the head that hands the key over"
    return ""


def named(record: bytes) -> VerifierKey | None:
    """The key to which a record hands over; None for every other record."""
    try:
        told = json.loads(record)
        if (told["kind"], told["project"], told["event"]) != ("key_change", "log", EVENT):
            return None
        return VerifierKey.parse(told["verifier_key"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, NoteFault):
        return None
