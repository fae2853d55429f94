"""Makes the sources' policy the one that decides: built, tried, offered, seen to answer.

A policy that does not build, or that OPA does not take, never becomes active; the last good one
goes on deciding, and `status` says what is wrong.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import structlog

from gateway.frozen import frozen
from gateway.policy import proof, watch
from gateway.policy.archive import archived
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import (
    Bundle,
    is_same,
    keep,
    last_good,
    last_tried,
    pack,
    sources_of,
    store,
)
from gateway.policy.coverage import Coverage, Measuring
from gateway.policy.opa import Opa
from gateway.policy.proof import Commands, Dropped
from gateway.policy.sharing import Offer, Sharing, SharingFault
from gateway.policy.sources import BundleFault, Source, Tree, compose

_log = structlog.get_logger(__name__)

TAKE_SECONDS = 8.0
"""For OPA to answer from an offered bundle; a gateway that is behind for longer refuses calls."""
_PATIENCE = 5.0
"""Seconds after which a build is finished although the sources go on changing."""
_TELL_AGAIN_SECONDS = 60.0
_RETRY_SECONDS = 30.0
_LONGEST_REASON = 2000
_LOOK_SECONDS = 1.0
BEHIND_SECONDS = 10.0
"""That a gateway may decide by another bundle than the others; then it refuses."""


@frozen
class Active:
    """The policy that decides."""

    revision: str
    digest: str
    since: str
    sources: Mapping[str, str]
    """Name of each source to ``sha256:<hex>`` over its files."""


@frozen
class Failure:
    """Why sources did not become active."""

    reason: str
    file: str
    """Empty where no one file is to blame; then `line` is 0."""
    line: int
    at: str
    deciding: str | None
    """Digest of the bundle that decides all the same."""
    resolved_at: str | None = None
    """When the sources were good again."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.reason}" if where else self.reason


@frozen
class PolicyStatus:
    active: Active | None
    building_since: str | None
    last_failure: Failure | None


Tell = Callable[[Active | Failure], Awaitable[None]]
"""Told of each activation and each new failure, of failures at most once a minute."""


@frozen
class _Built:
    bundle: Bundle
    tried: str
    """Names all that was tried with it: policies, tests, schemas, capabilities, OPA itself."""
    shared: str = ""
    """Names what every policy was checked against."""
    tree: Tree | None = None
    """None for the last good bundle of an earlier start."""


class Activation:
    """`begin` once, then `run` until the end; both belong to the event loop."""

    def __init__(
        self,
        *,
        sources: Callable[[], Iterable[Source]],
        rego: Path,
        binary: Path,
        key: bytes,
        archive: Path,
        bundles: BundleServer,
        opa: Opa,
        now: Callable[[], str],
        tell: Tell,
        proved: Path | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """`rego` holds ``schemas/`` and ``capabilities.json``; `archive` keeps the bundles.

        `proved` is where an installation marks what has passed; see
        `gateway.policy.shipped`. `sharing` is None where no other gateway has this database.
        """
        self._sharing = sharing
        self._builds = sharing is None
        self._behind_since: float | None = None
        self._unusable = ""
        self._turn = asyncio.Lock()
        self._proved = proved
        self._sources = sources
        self._rego = rego
        self._binary = binary
        self._key = key
        self._archive = archive
        self._bundles = bundles
        self._opa = opa
        self._now = now
        self._tell = tell
        kept = last_good(archive)
        self._kept = None if kept is None else _Built(kept, last_tried(archive))
        self._first: _Built | None = None
        self._good: _Built | None = None
        self._looked_at = ""
        self._active: Active | None = None
        self._failure: Failure | None = None
        self._told_at = -math.inf
        self._building_since: str | None = None
        self._changed = asyncio.Event()
        self._pending_since = 0.0
        self._commands = Commands(binary)
        self._measuring = Measuring(binary)

    @property
    def behind(self) -> bool:
        """Whether the other gateways have decided by another bundle for too long."""
        since = self._behind_since
        return since is not None and time.monotonic() - since > BEHIND_SECONDS

    def status(self) -> PolicyStatus:
        return PolicyStatus(self._active, self._building_since, self._failure)

    def coverage(self) -> Coverage:
        """How far the tests of the active policy reach; asking begins to measure it."""
        if self._good is None or self._good.tree is None:
            return Coverage("unknown", why="the sources of the active bundle are not here any more")
        return self._measuring.of(self._good.bundle.digest, self._good.tree)

    async def archived(self, digest: str) -> bytes | None:
        """The archive of a bundle that ever served here."""
        try:
            return await asyncio.to_thread(archived, self._archive, digest)
        except BundleFault:
            pass
        if self._sharing is None:
            return None
        try:  # another gateway's, from before this one was there
            return (await self._sharing.fetch(digest)).bundle.archive
        except (BundleFault, SharingFault):
            return None

    async def begin(self) -> None:
        """Offer the first bundle. Raises `BundleFault` if none builds and none was ever good."""
        if self._sharing is not None:
            self._kept = await self._published_first(self._sharing) or self._kept
        self._good = kept = self._kept
        try:
            built = await asyncio.to_thread(self._build, self._commands) if self._builds else kept
        except BundleFault as fault:
            if kept is None:
                raise
            self._note(fault)
            built = kept
        assert built is not None
        await self._store(built)
        self._bundles.offer(built.bundle)
        self._first = built

    async def _published_first(self, sharing: Sharing) -> _Built | None:
        """What the gateways serve; None before their first, when this one is to build it."""
        while True:
            try:
                self._builds = await sharing.builds()
                digest = await sharing.published()
                if digest is not None:
                    return _built(await sharing.fetch(digest))
            except SharingFault as fault:
                raise BundleFault(f"the bundle of all gateways cannot be read: {fault}") from None
            if self._builds:
                return None
            await asyncio.sleep(_LOOK_SECONDS)

    async def _store(self, built: _Built) -> None:
        """Raises OSError, `BundleFault`."""
        await asyncio.to_thread(store, built.bundle, self._archive)
        if self._sharing is not None and self._builds:
            try:
                await self._sharing.store(Offer(built.bundle, built.tried))
            except SharingFault as fault:
                raise BundleFault(f"cannot be kept: {fault}") from None

    async def run(self) -> None:
        """Activate the first bundle and whatever follows; ends by an error or being cancelled."""
        try:
            if self._failure is not None:
                await self._tell_of(self._failure)
            assert self._first is not None
            await self._activate(self._first)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._follow())
                if self._sharing is not None:
                    tasks.create_task(self._keep_up(self._sharing))
        finally:
            self._commands.drop()
            self._measuring.close()

    async def _watch(self) -> None:
        async with aclosing(watch.changes(self._folders)) as seen:
            async for told in seen:
                if not told and self._building_since is not None:
                    continue  # what is built is not dropped for a mere look
                if not self._changed.is_set() and self._building_since is None:
                    self._pending_since = time.monotonic()
                self._changed.set()
                if time.monotonic() - self._pending_since < _PATIENCE:
                    self._commands.drop()

    def _folders(self) -> set[Path]:
        # A template that is added lies beside the others.
        return {self._rego, *(_watched(source) for source in self._sources())}

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._builds:
                continue
            self._commands = commands = Commands(self._binary, background=True)
            self._building_since = self._now()
            try:
                built = await asyncio.to_thread(self._build, commands)
            except Dropped:
                continue
            except BundleFault as fault:
                if commands.dropped:
                    continue
                await self._tell_of(self._note(fault))
            else:
                if commands.dropped:
                    self._looked_at = ""
                    continue
                if built is not None:
                    await self._activate(built)
            self._building_since = None

    async def _keep_up(self, sharing: Sharing) -> None:
        """Serve what was published, and build when whoever did is gone."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look(sharing)
            except BundleFault as fault:
                if self._unusable != str(fault):
                    self._unusable = str(fault)
                    await self._tell_of(self._note(fault))
            except SharingFault as fault:
                # Calls are refused while the database is away; the next look may find it.
                _log.warning("the bundle of all gateways cannot be read", why=str(fault))

    async def _look(self, sharing: Sharing) -> None:
        builds = await sharing.builds()
        if builds and not self._builds:
            self._looked_at = ""
            self._changed.set()
        self._builds = builds
        digest = await sharing.published()
        if builds or digest is None or self._decides_by(digest):
            self._behind_since = None
            return
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        await self._activate(_built(await sharing.fetch(digest)))
        if self._decides_by(digest):
            self._behind_since = None

    def _decides_by(self, digest: str) -> bool:
        return self._active is not None and self._active.digest == digest

    def _build(self, commands: Commands) -> _Built | None:
        """In a thread: what may be offered, or None if these very sources were looked at last.

        Raises `BundleFault`, `Dropped`.
        """
        tree = compose(self._sources(), self._binary)
        shared, tried = proof.names(tree, self._rego)
        if tried == self._looked_at:
            return None
        bundle, good = pack(tree, self._key), self._good
        if good is not None and is_same(good.bundle, bundle):
            bundle = good.bundle  # what other gateways decide by, and records name, keeps its name
        built = _Built(bundle, tried, shared, tree)
        if (good is None or good.tried != tried) and not proof.is_proved(self._proved, tried):
            since = good.tree if good is not None and good.shared == shared else None
            try:
                proof.try_all(commands, built.bundle.archive, tree, self._rego, since)
            except BundleFault:
                self._looked_at = tried
                raise
            except OSError as error:
                raise BundleFault(f"cannot be tried: {error}") from error
        self._looked_at = tried
        return built

    async def _activate(self, built: _Built) -> None:
        async with self._turn:  # built here, or published by another gateway
            await self._take(built)

    async def _take(self, built: _Built) -> None:
        bundle, before = built.bundle, self._good
        try:
            await self._store(built)
        except (OSError, BundleFault) as error:
            # Records would name a bundle that nobody could ever read again.
            why = error if isinstance(error, BundleFault) else f"cannot be kept: {error}"
            await self._tell_of(self._note(BundleFault(str(why))))
            self._retry(_RETRY_SECONDS)
            return
        if self._bundles.current != bundle:
            self._bundles.offer(bundle)
        if await self._opa.answers_from(bundle.revision, TAKE_SECONDS):
            await self._note_active(built)
            return
        said = self._opa.status().last_error or "it does not answer"
        fault = BundleFault(f"OPA did not take the bundle in {TAKE_SECONDS:g} s: {said}")
        pause = 1.0
        if before is not None and before.bundle != bundle:
            self._bundles.offer(before.bundle)
            pause = _RETRY_SECONDS
        await self._tell_of(self._note(fault))
        self._retry(pause)

    def _retry(self, seconds: float) -> None:
        self._looked_at = ""
        asyncio.get_running_loop().call_later(seconds, self._changed.set)

    async def _note_active(self, built: _Built) -> None:
        bundle, kept = built.bundle, self._kept
        await self._publish(bundle)
        failure = self._failure
        good = built.tree is not None or not self._builds
        if failure is not None and failure.resolved_at is None and good:
            self._failure = replace(failure, resolved_at=self._now())
        self._good = built
        if self._active is None or self._active.digest != bundle.digest:
            found = sources_of(bundle)
            self._active = Active(bundle.revision, bundle.digest, self._now(), found)
            _log.info("policy is active", revision=bundle.revision, digest=bundle.digest)
        if kept is None or kept.bundle.digest != bundle.digest:
            # Before it is remembered: a crash in between has it told twice, not never.
            await self._tell(self._active)
        self._kept = built
        try:
            await asyncio.to_thread(keep, bundle, self._archive, built.tried)
        except OSError as error:
            _log.error("a restart may begin with an earlier policy", why=str(error))

    async def _publish(self, bundle: Bundle) -> None:
        """Once OPA has taken it here: what it cannot load reaches no other gateway."""
        if self._sharing is None or not self._builds:
            return
        try:
            await self._sharing.publish(bundle.digest)
        except SharingFault as fault:
            _log.warning("the policy is not published yet", digest=bundle.digest, why=str(fault))
            self._retry(_LOOK_SECONDS)

    def _note(self, fault: BundleFault) -> Failure:
        good = self._bundles.current or (self._kept and self._kept.bundle)
        self._failure = Failure(
            reason=fault.reason[:_LONGEST_REASON],
            file=fault.file,
            line=fault.line,
            at=self._now(),
            deciding=good.digest if good else None,
        )
        _log.error("the policy does not become active; the last good one decides", why=str(fault))
        return self._failure

    async def _tell_of(self, failure: Failure) -> None:
        """An editor that saves as one types breaks a policy many times: the log has them all."""
        if time.monotonic() - self._told_at >= _TELL_AGAIN_SECONDS:
            self._told_at = time.monotonic()
            await self._tell(failure)


def _built(offer: Offer) -> _Built:
    return _Built(offer.bundle, offer.tried)


def _watched(source: Source) -> Path:
    return source.folder.parent if source.root[0] == "connectors" else source.folder
