"""What the logs of one deployment are called. Pure; needs the standard library alone.

``gateway-1f2e3d4c/trace/main`` is the first slot's first log, ``….1``, ``….2`` are those of further
slots, and ``…-2``, ``…-3`` go on where one before them was sealed: ``…/main.1-2``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.frozen import frozen

_NAME = re.compile(
    r"(?P<base>.+?)(?:\.(?P<slot>[1-9][0-9]{0,3}))?(?:-(?P<generation>[2-9]|[1-9][0-9]{1,3}))?"
)


@dataclass(frozen=True, slots=True, order=True)
class LogName:
    base: str
    """Shared by all logs of a deployment, and the name of the first."""
    slot: int = 0
    generation: int = 1

    @classmethod
    def parse(cls, origin: str) -> "LogName":
        found = _NAME.fullmatch(origin)
        if found is None:
            return cls(origin)
        return cls(found["base"], int(found["slot"] or 0), int(found["generation"] or 1))

    def __str__(self) -> str:
        slot = f".{self.slot}" if self.slot else ""
        generation = f"-{self.generation}" if self.generation > 1 else ""
        return f"{self.base}{slot}{generation}"

    @property
    def successor(self) -> "LogName":
        """Goes on where this one is sealed."""
        return replace(self, generation=self.generation + 1)


@frozen
class Named:
    """A log's head as a record of another one names it."""

    origin: str
    size: int
    root: str
    """In hexadecimal."""


def named(record: Mapping[str, object]) -> Iterator[Named]:
    """The heads that a record `heads` or `genesis` names; lines that are none are passed over."""
    lines = record.get("logs")
    for line in lines if isinstance(lines, list) else ():
        words = str(line).split(" ")
        if len(words) == 3 and words[1].isdecimal():
            yield Named(words[0], int(words[1]), words[2])
