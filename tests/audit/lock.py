"""The packages that a lock pins, whatever the platform."""

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tests.audit.advisories import Unreadable

_END = re.compile(r"\s*\\$|\s+#.*$")


def pinned(lock: str) -> set[tuple[str, Version]]:
    """Name and version of each. Raises `Unreadable`: what is not understood is not checked."""
    found = set()
    for line in lock.splitlines():
        text = _END.sub("", line).strip()
        if not text or text.startswith(("#", "--hash")):
            continue
        try:
            wanted = Requirement(text)
            [exact] = wanted.specifier
            version = Version(exact.version)
        except (InvalidRequirement, InvalidVersion, ValueError):
            raise Unreadable(f"a line of the lock pins nothing: {text[:80]}") from None
        if exact.operator != "==":
            raise Unreadable(f"a line of the lock pins nothing: {text[:80]}")
        found.add((str(canonicalize_name(wanted.name)), version))
    if not found:
        raise Unreadable("the lock is empty")
    return found
