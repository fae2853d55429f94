"""What is to be done so that a gateway holds what the files say. Pure: nothing is sent."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Literal

from gateway.configuration.document import Document
from gateway.configuration.items import NOUNS, Item, Noun, Scalar
from gateway.frozen import frozen

Kind = Literal["create", "change", "delete"]
Changes = Mapping[str, tuple[Scalar, Scalar]]

_REROUTING = ("server_url", "transport", "auth_type", "tls_ca")
_DELETED = ("override", "rule", "budget", "server", "agent")


@frozen
class Step:
    """One change; whoever dies between two steps leaves whole ones behind."""

    kind: Kind
    item: Item
    """As it shall be, or, to be deleted, as it is."""
    id: str = ""
    """Of what is changed or deleted; empty when an earlier step makes it."""
    changes: Changes = field(default_factory=dict)
    """Before and after, by field."""
    sends_auth: bool = False
    """The credential goes with it; where it was there before, it is sent anew."""


@frozen
class Plan:
    steps: tuple[Step, ...]
    """In the order in which they are to be done."""
    not_managed: tuple[Item, ...]
    """On the gateway, in a section of the files, and not in them; left alone without prune."""
    lapsed: tuple[Item, ...]
    """In the files and expired: as good as not there."""
    problems: tuple[str, ...]
    """Why it cannot be done at all."""


def plan(
    document: Document,
    live: Sequence[Item],
    now: str,
    *,
    prune: bool = False,
    resend: frozenset[str] = frozenset(),
) -> Plan:
    """Compare. `now` is a time as `gateway.clock.rfc3339` writes it; `resend` names servers whose
    credential is to be sent although nothing shows that it is another one."""
    lapsed = tuple(one for one in document.items if _has_lapsed(one, now))
    desired = [one for one in document.items if not _has_lapsed(one, now)]
    pairs, left = _paired(desired, live)
    superseded = _superseded(desired, left)
    extra = [
        one
        for one in left
        if one.noun in document.nouns and not one.revoked and one not in superseded
    ]
    gone = [*superseded, *(extra if prune else ())]
    steps = [step for item, known in pairs for step in _steps(item, known, resend)]
    steps += [Step("delete", one, one.id) for one in gone]
    problems = [
        *(text for item, known in pairs for text in _impossible(item, known)),
        *_dangling(desired, live, gone),
        *_unknown_resends(desired, resend),
    ]
    steps.sort(key=_phase)
    return Plan(tuple(steps), () if prune else tuple(extra), lapsed, tuple(problems))


def _has_lapsed(item: Item, now: str) -> bool:
    expires_at = item.fields.get("expires_at")
    return isinstance(expires_at, str) and expires_at <= now


def _paired(
    desired: Sequence[Item], live: Sequence[Item]
) -> tuple[list[tuple[Item, Item | None]], list[Item]]:
    """Each desired item with the live one that it is, and the live ones that are left.

    Several rules may have one scope: those that are equal already belong together, so that what
    was applied once stays as it is; the others follow in their order.
    """
    left: dict[tuple[Scalar, ...], list[Item]] = defaultdict(list)
    for one in live:
        left[one.key].append(one)
    found: dict[int, Item] = {}
    for exactly in (True, False):
        for place, item in enumerate(desired):
            candidates = left[item.key]
            same = [c for c in candidates if not exactly or not _differing(item, c)]
            if place not in found and same:
                found[place] = same[0]
                candidates.remove(same[0])
    pairs = [(item, found.get(place)) for place, item in enumerate(desired)]
    return pairs, [one for rest in left.values() for one in rest]


def _superseded(desired: Sequence[Item], left: Sequence[Item]) -> list[Item]:
    """Overrides whose place the files give to another: such a change is making one, then removing
    one, and may have been cut short between the two."""
    overridden = {one.key for one in desired if one.noun == "override"}
    return [one for one in left if one.key in overridden]


def _differing(item: Item, known: Item) -> dict[str, tuple[Scalar, Scalar]]:
    return {
        name: (known.fields.get(name), value)
        for name, value in item.fields.items()
        if known.fields.get(name) != value
    }


def _steps(item: Item, known: Item | None, resend: frozenset[str]) -> Iterable[Step]:
    status = item.fields.get("status")
    if known is None:
        yield Step("create", item, sends_auth=item.fields.get("auth_type", "none") != "none")
        if status not in (None, "PENDING_APPROVAL"):
            yield Step("change", item, changes={"status": ("PENDING_APPROVAL", status)})
        return
    changes = _differing(item, known)
    before = known.fields.get("status")
    changes.pop("status", None)
    again = item.noun == "server" and item.scope["slug"] in resend
    rerouted = again or any(name in changes for name in _REROUTING)
    if changes or again:
        sends = "auth_type" in changes or (rerouted and item.fields["auth_type"] != "none")
        yield Step("change", item, known.id, changes, sends)
    if rerouted:
        before = "PENDING_APPROVAL"
    if status is not None and status != before:
        yield Step("change", item, known.id, {"status": (before, status)})


def _impossible(item: Item, known: Item | None) -> Iterable[str]:
    if known is None:
        return
    if known.revoked:
        yield f"{item.place}: the agent {item.name} is revoked for good; take another name"
    changes = _differing(item, known)
    if "connector_type" in changes:
        was, wanted = changes["connector_type"]
        yield (
            f"{item.place}: the server {item.name} is {was} and cannot become {wanted}; "
            "register it under another slug"
        )
    if changes.get("status") == ("BLOCKED", item.fields.get("status")):
        yield (
            f"{item.place}: somebody blocked the server {item.name}, and a file never lifts a "
            "block; lift it there, or say status: BLOCKED"
        )


def _dangling(desired: Sequence[Item], live: Sequence[Item], gone: Sequence[Item]) -> Iterable[str]:
    """References to an agent or server that will not be there."""
    leaving = {one.key for one in gone}
    there = {one.key for one in live if one.key not in leaving and not one.revoked}
    there |= {one.key for one in desired}
    for one in desired:
        for noun in ("agent", "server"):
            name = one.scope.get(noun)
            if name is not None and (noun, name) not in there:
                yield f"{one.place}: there is no {noun} {name}, here or on the gateway"


def _unknown_resends(desired: Sequence[Item], resend: frozenset[str]) -> Iterable[str]:
    with_auth = {
        one.scope["slug"]
        for one in desired
        if one.noun == "server" and one.fields["auth_type"] != "none"
    }
    return [f"{slug}: the files give no credential for it" for slug in sorted(resend - with_auth)]


def _phase(step: Step) -> tuple[int, int]:
    """What opens a server's door comes last: no call passes before its rules are there."""
    noun: Noun = step.item.noun
    if step.kind == "delete":
        return 2, _DELETED.index(noun)
    if "status" in step.changes:
        return (3, 0) if step.item.fields["status"] == "ACTIVE" else (1, 0)
    return (0 if noun in ("agent", "server") else 1), 1 + NOUNS.index(noun)
