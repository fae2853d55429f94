"""What the pages are given by `gateway.app`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.edge import Network
from gateway.registry.core import Registry


@dataclass(frozen=True, slots=True)
class DashboardContext:
    registry: Registry
    secure: bool
    """People reach it over HTTPS: cookies then bear `__Host-` and `Secure`."""
    trusted_proxies: Sequence[Network]
    take: Callable[[str], float]
    """Takes one sign-in from an address's allowance; how many seconds it must wait, or 0."""
