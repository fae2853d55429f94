"""Checks an evidence bundle against a key that the auditor trusts; nothing else is believed.

All checks are made and told, whatever the first says. Needs the standard library, `cryptography`
and `rfc8785` alone: whoever verifies has no gateway.
"""

import hmac
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from gateway.trace import note
from gateway.trace.bundle import Bundle, BundleUnreadable, Entry
from gateway.trace.key_chain import Chain, follow
from gateway.trace.leaves import AllLeaves
from gateway.trace.merkle import Frontier, extends, includes, leaf_hash
from gateway.trace.names import LogName, Named, named
from gateway.trace.note import Checkpoint, NoteFault
from gateway.trace.trust import Trust
from gateway.trace.verdicts import Check, Status
from gateway.trace.verify_anchors import anchor_checks
from gateway.trace.verify_logs import LogView, all_there, coverage, heads_agree

_LOG_ITSELF = "log"


def verify(bundle: Bundle, trust: Trust) -> list[Check]:
    """Every check, in order. Raises `BundleUnreadable` when nothing can be told."""
    if not bundle.logs:
        raise BundleUnreadable("there is no log in the bundle")
    chain = follow(bundle, trust.key)
    logs = [_OneLog(bundle, number, trust, chain) for number in bundle.logs]
    told = [one.checks() for one in logs]
    views = [view for one in logs if (view := one.view()) is not None]
    covered = coverage(views)
    checks = [Check("log.key", *told) for told in chain.told]
    for one, found in zip(logs, told, strict=True):
        if one.head is not None:
            anchored = covered.get(one.origin, one.covered)
            found.append(_unanchored(one.head.size, anchored, one.listed))
        if len(logs) > 1:
            found = [Check(c.name, c.status, c.detail, one.origin) for c in found]
        checks += found
    checks.append(all_there(views, trust.key.name, _name_of(trust.previous)))
    if (agreement := heads_agree(views)) is not None:
        checks.append(agreement)
    checks += _sizes(views, trust)
    return checks


def _name_of(checkpoint: str | None) -> str | None:
    try:
        return None if checkpoint is None else _text(checkpoint).origin
    except NoteFault:
        return None  # each log's own check says so


def _text(signed: str) -> Checkpoint:
    """What a note says, whoever signed it. Raises `NoteFault`."""
    return note.parse(signed.rpartition("\n\n")[0] + "\n")


def _unanchored(size: int, covered: int, listed: int) -> Check:
    if covered >= size:
        return Check("unanchored", "PASS", "every record is covered by an anchor")
    why = f"{size - covered} records ({covered}..{size - 1}) are covered by the "
    more = ""
    if listed > covered:
        more = f"; an anchor of {listed} is listed, and cannot be verified here"
    return Check("unanchored", "WARN", why + "log's own signature only" + more)


def _sizes(views: Sequence[LogView], trust: Trust) -> Iterator[Check]:
    total = sum(view.size for view in views)
    if trust.min_size:
        enough = total >= trust.min_size
        detail = f"{total} records, at least {trust.min_size} are expected"
        yield Check("size.minimum", "PASS" if enough else "FAIL", detail)


@dataclass(slots=True)
class _Project:
    """How far a project's records were followed."""

    first: int
    last: int
    leaf: str
    index: int
    whole: bool = True


@dataclass(slots=True)
class _Seen:
    """What one pass over the records finds."""

    count: int = 0
    included: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    """The first fault of each check."""
    last_index: int = -1
    matched: int = 0
    erased: int = 0
    withheld: int = 0
    projects: dict[str, _Project] = field(default_factory=dict)
    named: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    """Each project's last sequence number and leaf, as the newest `heads` record has it."""
    heads: list[tuple[int, Named]] = field(default_factory=list)
    """Heads of all logs, as records name them."""

    def fault(self, check: str, why: str) -> None:
        self.faults.setdefault(check, why)


class _OneLog:
    def __init__(self, bundle: Bundle, number: int, trust: Trust, chain: Chain) -> None:
        self._bundle = bundle
        self._chain = chain
        self._number = number
        self._trust = trust
        self._note = bundle.text(f"logs/{number}/checkpoint.txt")
        self.head: Checkpoint | None = None
        self.origin = ""
        self.covered = 0
        """Records below the largest anchor that shows itself."""
        self.listed = 0
        """The same of anchors that the bundle lists, and that cannot be verified here."""
        self._leaves = AllLeaves(bundle.leaves(number))
        self._named: Sequence[tuple[int, Named]] = ()

    def view(self) -> LogView | None:
        """To be asked after `checks`; None for a log whose head cannot be read."""
        if self.head is None:
            return None
        return LogView(self.origin, self.head.size, self._named, self.covered, self._agrees)

    def _agrees(self, one: Named) -> tuple[Status, str]:
        assert self.head is not None
        try:
            before = Checkpoint(one.origin, one.size, bytes.fromhex(one.root))
        except ValueError:
            return "FAIL", "that is no root"
        found = self._extends(self.head, before, "logs.heads")
        return found.status, found.detail

    def checks(self) -> list[Check]:
        signature = self._signature()
        if self.head is None:
            return [signature]
        seen = self._entries(self.head)
        self._named = seen.heads
        found = [
            signature,
            _counted("records.inclusion", seen, f"{seen.included} of {seen.count}"),
            _counted("records.index", seen, ""),
            _counted("records.form", seen, ""),
            self._commitments(seen),
            self._sequence(seen),
            self._leaves.check(self.head),
        ]
        if self._trust.previous is not None:
            found.append(self._extends_previous(self.head, self._trust.previous))
        return found + self._anchors(self.head)

    def _signature(self) -> Check:
        name = "checkpoint.signature"
        try:
            told = _text(self._note)
        except NoteFault as fault:
            return Check(name, "FAIL", str(fault))
        self.origin, self.head = told.origin, told
        trusted = self._trust.key
        if LogName.parse(told.origin).base != LogName.parse(trusted.name).base:
            why = f"the log is {told.origin}; --trust-key is of {trusted.name}"
            return Check(name, "CANNOT TELL", why)
        try:
            # All logs of a deployment are signed with one key, each under its own name.
            self._chain.checkpoint(self._note, told.origin)
        except NoteFault as fault:
            return Check(name, "FAIL", str(fault))
        return Check(name, "PASS", f"origin {told.origin} size {told.size}")

    # --- the records ---

    def _entries(self, head: Checkpoint) -> _Seen:
        seen = _Seen()
        for entry in self._bundle.entries(self._number):
            seen.count += 1
            leaf = leaf_hash(entry.record)
            self._leaves.meet(entry.index, leaf)
            if includes(entry.index, head.size, leaf, entry.proof, head.root):
                seen.included += 1
            else:
                seen.fault("records.inclusion", f"record {entry.index} is not in the tree")
            if entry.index <= seen.last_index:
                seen.fault("records.index", f"record {entry.index} is out of order, or twice there")
            seen.last_index = max(seen.last_index, entry.index)
            record = _record(entry, seen)
            if record is not None:
                self._one(entry, record, leaf.hex(), seen)
        return seen

    def _one(self, entry: Entry, record: dict[str, Any], leaf: str, seen: _Seen) -> None:
        if record.get("idx") != entry.index:
            why = f"record {record.get('idx')} stands at {entry.index}"
            seen.fault("records.index", why)
        _commitments(entry, record, seen)
        project, pseq = record.get("project"), record.get("pseq")
        if not isinstance(project, str) or not isinstance(pseq, int):
            seen.fault("records.form", f"record {entry.index} names no project or place in it")
            return
        if project == _LOG_ITSELF:
            _learn_heads(entry.index, record, seen)
        else:
            _follow(entry.index, project, pseq, str(record.get("pprev")), leaf, seen)

    def _commitments(self, seen: _Seen) -> Check:
        detail = f"{seen.matched} match, {seen.erased} erased, {seen.withheld} not disclosed"
        return _counted("payload.commitments", seen, detail)

    def _sequence(self, seen: _Seen) -> Check:
        name = "project.sequence"
        if name in seen.faults:
            return Check(name, "FAIL", seen.faults[name])
        filtered = self._bundle.manifest.get("filter")
        if filtered:
            return Check(name, "SKIP", f"NOT CLAIMED (filter {', '.join(sorted(filtered))})")
        if why := self._unbegun(seen):
            return Check(name, "FAIL", why)
        if broken := next((p for p in seen.projects.items() if not p[1].whole), None):
            return Check(name, "FAIL", f"{broken[0]} has a gap before record {broken[1].index}")
        for project, followed in seen.projects.items():
            if why := self._not_as_named(project, followed, seen):
                return Check(name, "FAIL", why)
        told = [
            f"{project} pseq {followed.first}..{followed.last}, no gap"
            + ("" if project in seen.named else " (no heads record names its end)")
            for project, followed in seen.projects.items()
        ]
        return Check(name, "PASS", "; ".join(told) or "no records of a project")

    def _unbegun(self, seen: _Seen) -> str:
        """Without a beginning or end that was asked for, all of the project must be there."""
        manifest = self._bundle.manifest
        if manifest.get("from") is not None:
            return ""
        for project, followed in seen.projects.items():
            if followed.first != 0:
                return f"{project} begins at pseq {followed.first}"
        project = str(manifest.get("project"))
        if project in seen.named and project not in seen.projects and manifest.get("to") is None:
            return f"there are no records of {project}; record {seen.named[project][2]} names some"
        return ""

    def _not_as_named(self, project: str, followed: _Project, seen: _Seen) -> str:
        """A `heads` record names the project's last record before it: it must be there."""
        named = seen.named.get(project)
        if named is None:
            return ""
        pseq, leaf, at = named
        if pseq > followed.last and self._bundle.manifest.get("to") is None:
            return f"{project} ends at pseq {followed.last}; record {at} names pseq {pseq}"
        if pseq == followed.last and leaf != followed.leaf:
            return f"{project} has another record at pseq {pseq} than record {at} names"
        return ""

    # --- heads of before ---

    def _extends_previous(self, head: Checkpoint, previous: str) -> Check:
        name = "consistency.previous"
        try:
            told = _text(previous)
            if told.origin != self.origin:
                return Check(name, "SKIP", f"--previous is of {told.origin}")
            before = self._chain.checkpoint(previous, self.origin)
        except NoteFault as fault:
            return Check(name, "CANNOT TELL", f"--previous: {fault}")
        return self._extends(head, before, name)

    def _extends(self, head: Checkpoint, before: Checkpoint, name: str) -> Check:
        told_sizes = f"{before.size} -> {head.size}"
        if before.size > head.size:
            return Check(name, "FAIL", f"{told_sizes}: records are missing at the end")
        if before.size == head.size:
            same = before.root == head.root
            return Check(name, "PASS" if same else "FAIL", told_sizes)
        return self._consistent(name, before, head, told_sizes)

    def _consistent(self, name: str, before: Checkpoint, head: Checkpoint, told: str) -> Check:
        proof = self._bundle.consistency(self._number).get(before.size)
        if proof is not None:
            good = extends(before.size, before.root, head.size, head.root, proof)
            return Check(name, "PASS" if good else "FAIL", told)
        leaves = self._bundle.leaves(self._number)
        if leaves is None:
            why = f"{told}: the bundle has neither a proof from {before.size} nor leaves.bin"
            return Check(name, "CANNOT TELL", why)
        frontier = Frontier()
        for leaf, _ in zip(leaves, range(before.size), strict=False):
            frontier.add(leaf, lambda *_: None)
        return Check(name, "PASS" if frontier.root() == before.root else "FAIL", told)

    def _anchors(self, head: Checkpoint) -> list[Check]:
        told = anchor_checks(self._bundle.anchors(self._number), self._trust, self.origin, head)
        self.covered, self.listed = told.covered, told.listed
        return told.checks


def _counted(name: str, seen: _Seen, detail: str) -> Check:
    if name in seen.faults:
        return Check(name, "FAIL", seen.faults[name])
    return Check(name, "PASS", detail)


def _record(entry: Entry, seen: _Seen) -> dict[str, Any] | None:
    """The record's fields. Its bytes must be the one canonical spelling of them (RFC 8785)."""
    try:
        record = json.loads(entry.record)
        canonical = isinstance(record, dict) and rfc8785.dumps(record) == entry.record
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        record, canonical = None, False
    if not canonical:
        seen.fault("records.form", f"record {entry.index} is not canonical JSON")
    return record if isinstance(record, dict) else None


def _commitments(entry: Entry, record: dict[str, Any], seen: _Seen) -> None:
    committed = record.get("payload") or {}
    for name, (nonce, value) in entry.disclosed.items():
        expected = "hmac-sha256:" + hmac.digest(nonce, value, "sha256").hex()
        if len(nonce) == 32 and committed.get(name) == expected:
            seen.matched += 1
        else:
            why = f"{name} of record {entry.index} is not what the record commits to"
            seen.fault("payload.commitments", why)
    absent = [name for name in committed if name not in entry.disclosed]
    erased = sum(name in entry.erased for name in absent)
    seen.erased += erased
    seen.withheld += len(absent) - erased


def _follow(index: int, project: str, pseq: int, previous: str, leaf: str, seen: _Seen) -> None:
    """Go on in the project's own chain; a record after a gap begins anew."""
    followed = seen.projects.get(project)
    if followed is None:
        seen.projects[project] = _Project(pseq, pseq, leaf, index)
        if pseq == 0 and previous:
            seen.fault("project.sequence", f"record {index} has a record before the first")
        return
    if pseq <= followed.last:
        seen.fault("project.sequence", f"record {index} has pseq {pseq} after {followed.last}")
    elif pseq == followed.last + 1:
        if previous != followed.leaf:
            seen.fault("project.sequence", f"record {index} follows another than {followed.index}")
    else:
        followed.whole = False
    followed.last, followed.leaf = pseq, leaf
    if followed.whole:
        followed.index = index


def _learn_heads(index: int, record: dict[str, Any], seen: _Seen) -> None:
    if record.get("kind") not in ("heads", "genesis"):
        return
    seen.heads += [(index, one) for one in named(record)]
    for line in record.get("projects") or ():
        words = str(line).split(" ")
        if len(words) == 3 and words[1].isdigit():
            seen.named[words[0]] = (int(words[1]), words[2], index)
