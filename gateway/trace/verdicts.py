"""One line of a verifier's output."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["PASS", "FAIL", "WARN", "SKIP", "CANNOT TELL"]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: Status
    detail: str
    log: str = ""
    """The log's name where a bundle has several."""
