"""A plan for people and for scripts. What it says of a server's credential is only its type."""

from gateway.configuration.items import PARAM, Item, Scalar
from gateway.configuration.plan import Kind, Plan, Step

_SIGNS: dict[Kind, str] = {"create": "+", "change": "~", "delete": "-"}
_LONGEST = 60


def as_text(plan: Plan) -> str:
    """A line a step, then what is left alone."""
    lines = [f"{_SIGNS[step.kind]} {told(step)}" for step in plan.steps]
    lines += [f"? {_named(one)}: not managed; --prune deletes it" for one in plan.not_managed]
    lines += [f"! {one.place}: {_named(one)} has expired; remove it" for one in plan.lapsed]
    counts = [
        f"{sum(step.kind == kind for step in plan.steps)} to {kind}"
        for kind in ("create", "change", "delete")
    ]
    return "\n".join([*lines, ", ".join(counts) if plan.steps else "Nothing to do."])


def told(step: Step) -> str:
    """``rule delete_*: action LOG_ONLY -> DENY``."""
    named = _named(step.item)
    if step.kind == "delete":
        return f"{named}, revoked for good" if step.item.noun == "agent" else named
    changes = [
        f"{name} {_short(name, before)} -> {_short(name, after)}"
        for name, (before, after) in step.changes.items()
    ]
    if step.kind == "change" and step.sends_auth and "auth_type" not in step.changes:
        changes.append("its credential is sent")
    return f"{named}: {', '.join(changes)}" if changes else named


def as_object(plan: Plan) -> dict[str, object]:
    """The same for ``--json``."""
    return {
        "steps": [
            {
                "kind": step.kind,
                "noun": step.item.noun,
                "name": step.item.name,
                "changes": {name: list(pair) for name, pair in step.changes.items()},
                "sends_auth": step.sends_auth,
            }
            for step in plan.steps
        ],
        "not_managed": [{"noun": one.noun, "name": one.name} for one in plan.not_managed],
        "expired": [{"noun": one.noun, "name": one.name} for one in plan.lapsed],
    }


def _named(item: Item) -> str:
    return f"{item.noun} {item.name}"


def _short(field: str, value: Scalar) -> str:
    if isinstance(value, bool) or value is None:
        return "none" if value is None else str(value).lower()
    plain = not isinstance(value, str) or value.isidentifier() or field.startswith(PARAM)
    text = str(value) if plain else repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
