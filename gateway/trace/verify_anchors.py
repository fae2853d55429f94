"""Heads of a log in other people's books: what of that a bundle shows by itself."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509

from gateway.trace import note
from gateway.trace.bundle import Anchored
from gateway.trace.chain_proof import NotOurs, Unanswered, offline, online
from gateway.trace.merkle import extends
from gateway.trace.note import Checkpoint, NoteFault
from gateway.trace.trust import Trust
from gateway.trace.verdicts import Check, Status

_CHAIN = "flare"
_STAMP = "rfc3161"


@dataclass(slots=True)
class AnchorChecks:
    checks: list[Check] = field(default_factory=list)
    covered: int = 0
    """Records below the largest anchor that shows itself."""
    listed: int = 0
    """The same of anchors that the bundle lists, and that cannot be verified here."""


def anchor_checks(
    anchors: Sequence[Anchored], trust: Trust, origin: str, head: Checkpoint
) -> AnchorChecks:
    """One check for each anchor of a log, whose checkpoint is `head`."""
    told = AnchorChecks()
    for anchor in anchors:
        name = f"anchor.{_kind(anchor)}.{anchor.size}"
        if extends(anchor.size, anchor.root, head.size, head.root, anchor.consistency):
            check = Check(name, *_anchored(anchor, trust, origin))
        else:
            check = Check(name, "FAIL", "the checkpoint does not extend that head")
        told.checks.append(check)
        if check.status in ("FAIL", "CANNOT TELL"):
            continue
        if _is_shown(anchor, trust):
            told.covered = max(told.covered, anchor.size)
        else:
            told.listed = max(told.listed, anchor.size)
    stamps = sum(_kind(anchor) == _STAMP for anchor in anchors)
    if stamps and trust.tsa_ca is None:
        why = f"time stamps NOT VERIFIED: {stamps} (no --tsa-ca)"
        told.checks.append(Check("anchor.rfc3161", "SKIP", why))
    return told


def _kind(anchor: Anchored) -> str:
    """``flare`` of ``flare:<chain>:<contract>:<writer>``."""
    return anchor.backend.partition(":")[0]


def _is_shown(anchor: Anchored, trust: Trust) -> bool:
    """Whether more than the bundle's word says that the head was anchored."""
    if _kind(anchor) == _STAMP:
        return trust.tsa_ca is not None
    return _kind(anchor) == _CHAIN and (bool(anchor.raw) or trust.rpc is not None)


def _anchored(anchor: Anchored, trust: Trust, origin: str) -> tuple[Status, str]:
    try:
        if _kind(anchor) == _CHAIN:
            return _on_chain(anchor, trust, origin)
        if _kind(anchor) == _STAMP:
            return _stamped(anchor, trust.tsa_ca, origin)
    except NotOurs as fault:
        return "FAIL", str(fault)
    except Unanswered as fault:
        return "CANNOT TELL", str(fault)
    return "PASS", f"{anchor.at}: NOT CHECKED there"


def _on_chain(anchor: Anchored, trust: Trust, origin: str) -> tuple[Status, str]:
    shown = offline(anchor, origin)
    where = f"tx {shown.tx_hash if shown else anchor.tx_hash}"
    writer = trust.writer
    if writer is not None and (shown is None or shown.writer != writer.lower()):
        signer = f"by {shown.writer}" if shown else "by whom the bundle does not say"
        return "FAIL", f"{where}: signed {signer}, not by {writer}"
    by = f"writer {shown.writer} {where}" if shown else where
    if trust.rpc is None:
        return "PASS", f"{by}: chain inclusion NOT CHECKED (no --rpc)"
    found = online(trust.rpc, anchor, origin, shown)
    return "PASS", f"{where}: {found}"


def _stamped(anchor: Anchored, roots: bytes | None, origin: str) -> tuple[Status, str]:
    if roots is None:
        return "SKIP", f"{anchor.at}: time stamp NOT VERIFIED (no --tsa-ca)"
    if not anchor.note:
        raise Unanswered("the bundle does not hold the checkpoint that was stamped")
    try:
        told = note.parse(anchor.note.rpartition("\n\n")[0] + "\n")
    except NoteFault as fault:
        raise NotOurs(f"what was stamped is no checkpoint: {fault}") from None
    if told != Checkpoint(origin, anchor.size, anchor.root):
        raise NotOurs("what was stamped is the checkpoint of another head")
    try:
        # An extra: who has no time stamps to verify needs nothing but cryptography and rfc8785.
        stamps = importlib.import_module("gateway.trace.time_stamps")
    except ImportError:
        why = "time stamps are verified with rfc3161-client: pip install rfc3161-client"
        raise Unanswered(why) from None
    try:
        at = stamps.stamped(
            anchor.raw, anchor.note.encode(), x509.load_pem_x509_certificates(roots)
        )
    except stamps.BadStamp as fault:
        raise NotOurs(f"no time stamp of this head under --tsa-ca: {fault}") from None
    return "PASS", f"stamped {at} by an authority under --tsa-ca"
