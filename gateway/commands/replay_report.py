"""What a replay found, for people: plain text, and Markdown for a pull request."""

from collections.abc import Iterator

from gateway.commands.options import printable
from gateway.policy.replay import Group, Latency, Replay

_IDS = 3
"""Trace ids that a line shows; JSON has them all."""


def as_text(result: Replay, unkept: int) -> str:
    lines = [*_head(result, unkept)]
    for group in result.groups:
        lines.append(
            f"{group.kind}: {group.before} -> {group.after}, {len(group.trace_ids)} calls of "
            f"{printable(group.tool)} by {printable(_policies(group))} ({_ids(group)})"
        )
    lines += [f"no decision for {trace_id}: {why}" for trace_id, why in result.errors[:_IDS]]
    return "\n".join([*lines, _times(result)])


def as_markdown(result: Replay, unkept: int) -> str:
    lines = ["### Policy replay", "", *_head(result, unkept), ""]
    if result.groups:
        lines += ["| change | decision | tool | policies | calls | for instance |"]
        lines += ["|---|---|---|---|---|---|"]
    for group in result.groups:
        cells = [
            group.kind,
            f"{group.before} → {group.after}",
            _code(group.tool),
            _code(_policies(group)),
            str(len(group.trace_ids)),
            _code(_ids(group)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if result.errors:
        lines += ["", f"The candidate has no decision for {len(result.errors)} calls:", ""]
        lines += [f"- {_code(trace_id)}: {_code(why)}" for trace_id, why in result.errors[:_IDS]]
    return "\n".join([*lines, "", _times(result)])


def _head(result: Replay, unkept: int) -> Iterator[str]:
    changed = sum(len(group.trace_ids) for group in result.groups)
    yield f"{changed} of {result.inputs} recorded calls would be decided otherwise."
    if unkept:
        yield f"{unkept} more have no recorded input."


def _policies(group: Group) -> str:
    return ", ".join(group.policies) or "no policy"


def _ids(group: Group) -> str:
    more = ", …" if len(group.trace_ids) > _IDS else ""
    return ", ".join(group.trace_ids[:_IDS]) + more


def _times(result: Replay) -> str:
    return f"Evaluation: {_latency(result.before)} before, {_latency(result.after)} after."


def _latency(latency: Latency) -> str:
    return f"p50 {latency.p50} µs, p99 {latency.p99} µs"


def _code(text: str) -> str:
    """Names come from clients: nothing in them may end the cell or begin a mark."""
    plain = "".join(" " if c in "`|\\<>" else c for c in printable(text))
    return f"`{plain}`"
