"""What `gateway.policy.activation` asks where several gateways serve one bundle."""

from typing import Protocol

from gateway.frozen import frozen
from gateway.policy.bundles import Bundle


class SharingFault(Exception):
    """It cannot be read or written now, or another gateway builds by now."""


@frozen
class Offer:
    bundle: Bundle
    tried: str
    """Names all that was tried with it, see `gateway.policy.proof`."""


class Sharing(Protocol):
    """One gateway builds, by a lease; each of them serves what was published last.

    Every method may raise `SharingFault`.
    """

    async def builds(self) -> bool:
        """Whether this gateway is the one that builds; takes or prolongs the lease."""

    async def store(self, offer: Offer) -> None:
        """Keep the archive for ever: records will name it."""

    async def publish(self, digest: str) -> None:
        """Have every gateway serve a bundle that was stored."""

    async def published(self) -> str | None:
        """The digest that is to be served; None before the first."""

    async def fetch(self, digest: str) -> Offer:
        """A bundle that was stored. Raises `BundleFault` where its bytes are others by now."""
