"""One line of a verifier's output."""

from typing import Literal, TypeAlias

from gateway.frozen import frozen

Status: TypeAlias = Literal["PASS", "FAIL", "WARN", "SKIP", "CANNOT TELL"]


@frozen
class Check:
    name: str
    status: Status
    detail: str
    log: str = ""
    """The log's name where a bundle has several."""
