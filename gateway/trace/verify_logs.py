"""Whether the logs of a bundle are all of them, and agree with each other. Pure.

A deployment has a log for each slot, and one more for each that was sealed. They name each other
with sizes and roots (`heads`, `genesis`), and their own names count them: so none can be left out,
put back to an earlier state or exchanged unseen. Needs the standard library alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field

from gateway.frozen import frozen
from gateway.trace.names import LogName, Named
from gateway.trace.verdicts import Check, Status


@frozen
class LogView:
    """What was found in one log, whose head is signed by the trusted key."""

    origin: str
    size: int
    named: Sequence[tuple[int, Named]]
    """Heads of logs, each with the place of the record that names it."""
    covered: int
    """Records below the log's own largest anchor."""
    agrees: Callable[[Named], tuple[Status, str]] = field(repr=False)
    """Whether the log's own head extends one that was named of it."""


def all_there(views: Sequence[LogView], trusted: str, seen: str | None) -> Check:
    """``trusted`` is the name in the auditor's key, of whichever log of the deployment; ``seen``
    the name of a log of which the auditor has a checkpoint.
    """
    base = LogName.parse(trusted).base
    ours = [view.origin for view in views if LogName.parse(view.origin).base == base]
    if not ours:
        return Check("logs", "CANNOT TELL", f"no log in the bundle is {base}")
    if twice := next((origin for origin in ours if ours.count(origin) > 1), None):
        return Check("logs", "FAIL", f"{twice} is there twice")
    expected = set(_numbered(ours))
    expected |= {one.origin for view in views for _, one in view.named if one.size}
    expected |= set() if seen is None else {seen}
    missing = sorted(expected - set(ours), key=LogName.parse)
    if missing:
        return Check("logs", "FAIL", f"missing: {', '.join(missing)}")
    return Check("logs", "PASS", f"{len(ours)} of {len(ours)}")


def _numbered(origins: Sequence[str]) -> Iterator[str]:
    """All that must have been before the last of each slot, and before the last slot."""
    names = [LogName.parse(origin) for origin in origins]
    base = names[0].base
    for slot in range(1 + max(name.slot for name in names)):
        generations = [name.generation for name in names if name.slot == slot]
        for generation in range(1, 1 + max(generations, default=1)):
            yield str(LogName(base, slot, generation))


def heads_agree(views: Sequence[LogView]) -> Check | None:
    """Each head that one log names of another must be of the log that is there."""
    logs = {view.origin: view for view in views}
    agreeing = untold = 0
    for view in views:
        for index, one in view.named:
            log = logs.get(one.origin)
            if log is None or one.origin == view.origin or not one.size:
                continue
            status, why = log.agrees(one)
            if status == "FAIL":
                told = f"record {index} of {view.origin} names {one.size} records of {one.origin}"
                return Check("logs.heads", "FAIL", f"{told}: {why}")
            agreeing += status == "PASS"
            untold += status != "PASS"
    if not agreeing + untold:
        return None
    detail = f"{agreeing} heads of other logs are theirs"
    if untold:
        return Check("logs.heads", "SKIP", f"{detail}; {untold} without a proof")
    return Check("logs.heads", "PASS", detail)


def coverage(views: Sequence[LogView]) -> dict[str, int]:
    """How many records of each log an anchor covers: its own, or that of a log that names it."""
    logs = {view.origin: view for view in views}
    found = {view.origin: view.covered for view in views}
    for view in views:
        for index, one in view.named:
            log = logs.get(one.origin)
            if log is None or index >= view.covered or one.size <= found[one.origin]:
                continue
            if log.agrees(one)[0] == "PASS":
                found[one.origin] = one.size
    return found
