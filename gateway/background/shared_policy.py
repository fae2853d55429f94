"""Keeps the bundles of all gateways in the database that they share."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.data_dir.state import State
from gateway.policy.bundles import Bundle
from gateway.policy.features import features_in
from gateway.policy.sharing import Offer, SharingFault
from gateway.policy.sources import BundleFault
from gateway.store import leases, tables
from gateway.store.writer import WriterStopped

LEASE = "policy"
LEASE_SECONDS = 15.0
"""After which another gateway builds, where the one that did is gone."""

Result = TypeVar("Result")

_b = tables.policy_bundles.c
_l = tables.leases.c


@dataclass(slots=True)
class SharedPolicy:
    """See `gateway.policy.sharing.Sharing`."""

    state: State
    _held_until: float = 0.0

    @property
    def _holder(self) -> str:
        return self.state.log.slot.holder

    async def builds(self) -> bool:
        asked = monotonic()
        if asked < self._held_until - LEASE_SECONDS * 2 / 3:
            return True
        # Whoever only waits for it must not hold up calls by a change each second.
        if asked > self._held_until and await self._read(self._is_anothers):
            return False
        held = await self._write(
            lambda c: leases.take(c, LEASE, self._holder, self._now(), LEASE_SECONDS)
        )
        self._held_until = asked + LEASE_SECONDS if held else 0.0
        return held

    async def store(self, offer: Offer) -> None:
        await self._write(lambda connection: self._insert(connection, offer))

    async def publish(self, digest: str) -> None:
        await self._write(lambda connection: self._publish(connection, digest))

    async def published(self) -> str | None:
        return await self._read(_published)

    async def fetch(self, digest: str) -> Offer:
        found = await self._read(lambda connection: fetch(connection, digest))
        if found is None:
            raise SharingFault(f"the bundle {digest} is not in the database")
        return found

    def _now(self) -> str:
        return self.state.clock.now()

    def _is_anothers(self, connection: Connection) -> bool:
        others = select(_l.name).where(
            _l.name == LEASE, _l.holder != self._holder, _l.until > self._now()
        )
        return connection.execute(others).first() is not None

    def _insert(self, connection: Connection, offer: Offer) -> None:
        bundle = offer.bundle
        if connection.execute(select(_b.digest).where(_b.digest == bundle.digest)).first():
            return
        row = {
            "digest": bundle.digest,
            "revision": bundle.revision,
            "archive": bundle.archive,
            "features": bundle.features.as_document(),
            "tried": offer.tried,
            "made_by": self._holder,
            "made_at": self._now(),
        }
        connection.execute(insert(tables.policy_bundles).values(**row))

    def _publish(self, connection: Connection, digest: str) -> None:
        leases.check(connection, LEASE, self._holder, self._now())
        if _published(connection) == digest:
            return
        last = connection.execute(select(func.coalesce(func.max(_b.published), 0))).scalar_one()
        this = update(tables.policy_bundles).where(_b.digest == digest)
        if connection.execute(this.values(published=last + 1)).rowcount != 1:
            raise SharingFault(f"the bundle {digest} was not stored")

    async def _write(self, fn: Callable[[Connection], Result]) -> Result:
        try:
            return await self.state.writer.change(fn)
        except (SQLAlchemyError, WriterStopped, leases.LeaseLost) as fault:
            raise SharingFault(f"{type(fault).__name__}: {fault}") from None

    async def _read(self, fn: Callable[[Connection], Result]) -> Result:
        def read() -> Result:
            with self.state.reader.connect() as connection:
                return fn(connection)

        try:
            return await anyio.to_thread.run_sync(read)
        except SQLAlchemyError as fault:
            raise SharingFault(f"{type(fault).__name__}: {fault}") from None


def fetch(connection: Connection, digest: str) -> Offer | None:
    """A bundle by its digest. Raises `BundleFault` when its bytes are others by now."""
    query = select(tables.policy_bundles).where(_b.digest == digest)
    row = connection.execute(query).first()
    if row is None:
        return None
    if digest != f"sha256:{hashlib.sha256(row.archive).hexdigest()}":
        raise BundleFault(f"the database's bundle {digest} is another: its bytes were changed")
    bundle = Bundle(row.revision, digest, row.archive, features_in(row.features))
    return Offer(bundle, row.tried)


def _published(connection: Connection) -> str | None:
    query = select(_b.digest).where(_b.published.is_not(None)).order_by(_b.published.desc())
    return connection.execute(query.limit(1)).scalar()
