"""What the pages are given by `gateway.app`."""

from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path

from gateway.api.context import ApiContext
from gateway.edge import Network
from gateway.frozen import frozen
from gateway.policy.coverage import Coverage
from gateway.registry.core import Registry
from gateway.registry.fired import Firings
from gateway.registry.overview import PastHours
from gateway.scans import Progress
from gateway.settings.oidc import OidcSettings
from gateway.telemetry.counters import Counters
from gateway.values import ServerId


@frozen
class DashboardContext:
    api: ApiContext
    secure: bool
    """People reach it over HTTPS: cookies then bear `__Host-` and `Secure`."""
    trusted_proxies: Sequence[Network]
    take: Callable[[str], float]
    """Takes one sign-in from an address's allowance; how many seconds it must wait, or 0."""
    opa: Path
    """The binary: decisions are made again with it, aside from the one that decides."""
    identity: OidcSettings | None = None
    """The provider at which people can sign in too; None, or no issuer in it: nowhere else."""
    private_allowed: tuple[Network, ...] = ()
    """Private networks in which it may be."""
    ending: Callable[[], bool] = lambda: False
    """The gateway is about to end, and streams with it."""
    coverage: Callable[[], Coverage] = lambda: Coverage("unknown")
    """How far the tests of the active policy reach; asking begins to measure it."""
    scanning: Callable[[ServerId], Progress | None] = lambda _server_id: None
    """How far a running scan of a server is."""
    counters: Counters = field(default_factory=Counters)
    """What this process measured since it started."""
    past_hours: PastHours = field(default_factory=PastHours)
    firings: Firings = field(default_factory=Firings)

    @property
    def registry(self) -> Registry:
        return self.api.registry
