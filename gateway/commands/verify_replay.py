"""Makes the decisions of an evidence bundle again: from its inputs, by its policies, with OPA.

A bundle's policies are foreign: they run only in an OPA of their own, which has compiled them
under the gateway's capabilities (see `gateway.policy.scratch`).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.frozen import frozen
from gateway.policy.scratch import Tried, decide_all
from gateway.policy.sources import BundleFault
from gateway.records.calls import MAX_IDS
from gateway.trace.bundle import Bundle, Entry
from gateway.trace.record import bounded
from gateway.trace.verdicts import Check

_AT_ONCE = 20_000
_BYTES_AT_ONCE = 128 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TOLD = 5
"""Differences that are told one by one; the others are counted."""


@frozen
class _Decided:
    """One recorded decision with what it was made on."""

    index: int
    action: str
    policy_ids: tuple[str, ...]
    question: bytes


@dataclass(slots=True)
class _Result:
    same: int = 0
    other: list[str] = field(default_factory=list)
    cannot: Counter[str] = field(default_factory=Counter)


def replay_checks(bundle: Bundle, opa: Path) -> list[Check]:
    """What each decision of the bundle is when it is made again."""
    result = _Result()
    archives: dict[str, bytes | None] = {}
    altered: list[str] = []
    waiting: dict[str, list[_Decided]] = {}
    sizes: Counter[str] = Counter()
    for digest, decided in _decisions(bundle, result):
        if digest not in archives:
            archives[digest] = _archive(bundle, digest, altered)
        if archives[digest] is None:
            result.cannot["the policy is not in the bundle"] += 1
            continue
        waiting.setdefault(digest, []).append(decided)
        sizes[digest] += len(decided.question)
        if len(waiting[digest]) >= _AT_ONCE or sizes[digest] >= _BYTES_AT_ONCE:
            _decide(archives[digest], waiting.pop(digest), opa, result)
            del sizes[digest]
    for digest, group in waiting.items():
        _decide(archives[digest], group, opa, result)
    held = sum(archive is not None for archive in archives.values())
    policies = Check("replay.policies", "PASS", f"{held} of {len(archives)} are in the bundle")
    if altered:
        policies = Check("replay.policies", "FAIL", f"{altered[0]} is not what its digest says")
    return [policies, _told(result)]


def _decisions(bundle: Bundle, result: _Result) -> Iterator[tuple[str, _Decided]]:
    for log in bundle.logs:
        for entry in bundle.entries(log):
            record = _record(entry)
            digest = record.get("policy")
            if record.get("kind") != "decision" or not isinstance(digest, str):
                continue  # no policy was asked: a stop, a pin or a fault decided
            if "input" in entry.disclosed:
                yield (
                    digest,
                    _Decided(
                        entry.index,
                        str(record.get("decision")),
                        tuple(str(one) for one in record.get("rules") or ()),
                        entry.disclosed["input"][1],
                    ),
                )
            elif "input" not in (record.get("payload") or {}):
                result.cannot["the input was not recorded"] += 1
            else:
                erased = "input" in entry.erased
                result.cannot["the input is erased" if erased else "the input is withheld"] += 1


def _record(entry: Entry) -> dict[str, Any]:
    try:
        record = json.loads(entry.record)
    except (ValueError, RecursionError):
        return {}  # `records.form` has said so
    return record if isinstance(record, dict) else {}


def _archive(bundle: Bundle, digest: str, altered: list[str]) -> bytes | None:
    name = f"policy/{digest.replace(':', '-')}.tar.gz"
    if not _DIGEST.fullmatch(digest) or not bundle.has(name):
        return None
    archive = bundle.read(name)
    if digest == f"sha256:{hashlib.sha256(archive).hexdigest()}":
        return archive
    altered.append(name)
    return None


def _decide(archive: bytes | None, group: list[_Decided], opa: Path, result: _Result) -> None:
    assert archive is not None
    try:
        answers = decide_all(archive, [one.question for one in group], opa)
    except BundleFault as fault:
        first = (str(fault).splitlines() or [""])[0]
        result.cannot[f"OPA does not take the policy: {first}"] += len(group)
        return
    for one, answer in zip(group, answers, strict=True):
        _compare(one, answer, result)


def _compare(one: _Decided, answer: Tried, result: _Result) -> None:
    if answer.action is None:
        result.other.append(f"record {one.index}: {_named(one.action, one.policy_ids)}, now none")
        return
    ids = tuple(bounded(policy_id) for policy_id in answer.policy_ids[:MAX_IDS])
    if (answer.action, ids) == (one.action, one.policy_ids):
        result.same += 1
    else:
        was, now = _named(one.action, one.policy_ids), _named(answer.action, ids)
        result.other.append(f"record {one.index}: recorded {was}, now {now}")


def _named(action: str, policy_ids: tuple[str, ...]) -> str:
    return f"{action} by {', '.join(policy_ids) or 'nothing'}"


def _told(result: _Result) -> Check:
    asked = result.same + len(result.other)
    same = f"{result.same} of {asked} decisions are made again as recorded"
    if result.other:
        more = f"; and {len(result.other) - _TOLD} more" * (len(result.other) > _TOLD)
        return Check("replay", "FAIL", f"{same}; {'; '.join(result.other[:_TOLD])}{more}")
    if result.cannot:
        why = ", ".join(f"{count} because {why}" for why, count in result.cannot.most_common())
        return Check("replay", "CANNOT TELL", f"{same}; cannot replay {why}")
    return Check("replay", "PASS", same)
