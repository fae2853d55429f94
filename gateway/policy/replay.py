"""Runs recorded inputs through two bundles and tells what the second would have changed."""

import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias

from gateway.frozen import frozen
from gateway.policy.scratch import Tried, decide_both
from gateway.policy.sources import BundleFault

Kind: TypeAlias = Literal[
    "newly denied",
    "newly asking",
    "newly allowed",
    "logged otherwise",
    "obligations changed",
]
NO_DECISION = "ERROR"
"""In place of an action: the policy ended in an error, and the gateway refuses the call."""
_STRICTNESS = {"ALLOW": 0, "LOG_ONLY": 1, "REQUIRE_APPROVAL": 2, "DENY": 3, NO_DECISION: 4}
_GIT_SECONDS = 60


@frozen
class Input:
    """A recorded question and what a report may tell of it; never its arguments."""

    trace_id: str
    tool: str
    question: bytes


@frozen
class Group:
    """Calls that would have been decided otherwise, in the same way and for the same reason."""

    kind: Kind
    before: str
    after: str
    policies: tuple[str, ...]
    """Of the side that is the stricter; of the second when only obligations differ."""
    tool: str
    trace_ids: tuple[str, ...]

    @property
    def stricter(self) -> bool:
        return _STRICTNESS[self.after] > _STRICTNESS[self.before]

    @property
    def looser(self) -> bool:
        return _STRICTNESS[self.after] < _STRICTNESS[self.before]


@frozen
class Latency:
    """Microseconds that OPA spent on an evaluation, over a sample of the inputs."""

    p50: int
    p99: int


@frozen
class Replay:
    inputs: int
    groups: tuple[Group, ...]
    errors: tuple[tuple[str, str], ...]
    """Trace id and message of each input that the second bundle has no decision for."""
    before: Latency
    after: Latency

    @property
    def stricter(self) -> bool:
        """Whether a call would be held back that was not; new obligations count as that."""
        return any(g.stricter or g.kind == "obligations changed" for g in self.groups)

    @property
    def looser(self) -> bool:
        """Whether a call would pass more easily; fewer obligations cannot be told from more."""
        return any(g.looser or g.kind == "obligations changed" for g in self.groups)


def replay(before: bytes, after: bytes, inputs: Sequence[Input], opa: Path) -> Replay:
    """Decide each input by both bundles (archives). Raises `BundleFault`."""
    was_side, now_side = decide_both(before, after, [one.question for one in inputs], opa)
    old, new = was_side.answers, now_side.answers
    found: dict[tuple[Kind, str, str, tuple[str, ...], str], list[str]] = defaultdict(list)
    for one, was, now in zip(inputs, old, new, strict=True):
        if kind := _changed(was, now):
            decided_by = was if _rank(was) > _rank(now) else now
            key = (kind, _action(was), _action(now), decided_by.policy_ids, one.tool)
            found[key].append(one.trace_id)
    return Replay(
        inputs=len(inputs),
        groups=tuple(Group(*key, tuple(ids)) for key, ids in sorted(found.items())),
        errors=tuple(
            (one.trace_id, now.error)
            for one, now in zip(inputs, new, strict=True)
            if now.action is None
        ),
        before=_latency(was_side.microseconds),
        after=_latency(now_side.microseconds),
    )


def _action(tried: Tried) -> str:
    """An action that the gateway does not know is no decision to it either."""
    return tried.action if tried.action in _STRICTNESS else NO_DECISION


def _rank(tried: Tried) -> int:
    return _STRICTNESS[_action(tried)]


def _changed(was: Tried, now: Tried) -> Kind | None:
    before, after = _action(was), _action(now)
    if before == after:
        return "obligations changed" if was.obligations != now.obligations else None
    if after in ("DENY", NO_DECISION):
        return "newly denied"
    if after == "REQUIRE_APPROVAL":
        return "newly asking"
    return "newly allowed" if _STRICTNESS[before] > 1 else "logged otherwise"


def _latency(microseconds: Sequence[int]) -> Latency:
    times = sorted(microseconds) or [0]
    return Latency(times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)])


@contextmanager
def at_revision(folder: Path, revision: str) -> Iterator[Path]:
    """The folder as it stands in a revision of its git repository. Raises `BundleFault`."""
    resolved = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if not resolved:
        raise BundleFault(f"{revision} is neither a folder nor a revision of {folder}")
    prefix = _git(folder, "rev-parse", "--show-prefix").decode().strip().rstrip("/")
    commit = resolved.decode().strip()
    tree = f"{commit}:{prefix}" if prefix else commit
    with tempfile.TemporaryDirectory(prefix="gateway-revision-") as aside:
        packed = _git(folder, "archive", "--format=tar", tree)
        if not packed:
            raise BundleFault(f"{folder} is not in revision {revision}")
        with tarfile.open(fileobj=BytesIO(packed)) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(aside, filter="data")
            else:  # Python before 3.11.4; no path in a tree of git's leaves it
                tar.extractall(aside)
        yield Path(aside)


def _git(folder: Path, *words: str) -> bytes:
    """What git prints; nothing when it refuses."""
    command: list[str | Path] = ["git", "-C", folder, *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleFault(f"cannot run git: {error}") from error
    return done.stdout if done.returncode == 0 else b""


def as_document(result: Replay) -> Mapping[str, object]:
    """The whole result as JSON; see `docs/policy-authoring.md`."""
    return {
        "inputs": result.inputs,
        "stricter": result.stricter,
        "looser": result.looser,
        "changes": [
            {
                "kind": group.kind,
                "before": group.before,
                "after": group.after,
                "policy_ids": group.policies,
                "tool": group.tool,
                "trace_ids": group.trace_ids,
            }
            for group in result.groups
        ],
        "errors": [{"trace_id": trace_id, "message": why} for trace_id, why in result.errors],
        "latency_us": {
            "before": {"p50": result.before.p50, "p99": result.before.p99},
            "after": {"p50": result.after.p50, "p99": result.after.p99},
        },
    }
