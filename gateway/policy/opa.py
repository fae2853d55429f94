"""An OPA as the gateway sees it: which bundle it answers from, and whether it decides."""

import asyncio
import os
import sys
import time
from pathlib import Path

import structlog

from gateway.frozen import frozen
from gateway.http1.client import TcpAddress, UnixAddress
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import signing_secret

_log = structlog.get_logger("gateway.opa")

TOKEN, KEY, STATE = "token", "bundle.key", "state"
"""In OPA's folder: what it shows the bundle server, what bundles are signed with, what it keeps."""

_STARTING_POLL = 0.01
_CATCH_UP_SECONDS = 10.0


@frozen
class OpaOptions:
    """How OPA is bounded and watched; the defaults are for production."""

    memory_bytes: int = 1 << 30
    """The hard limit. GOMEMLIMIT is half of it: Go collects harder long before it would die."""
    first_pause: float = 0.1
    """Seconds before the first restart; each further one doubles it."""
    longest_pause: float = 10.0
    check_seconds: float = 1.0
    missed_checks: int = 3
    """Without an answer to so many checks in a row, OPA does not decide; one of ours is killed."""
    lifeline: str = "prctl" if sys.platform == "linux" else "pipe"
    """See `gateway.policy.launch`."""

    @property
    def collector(self) -> dict[str, str]:
        """Go's settings for its garbage, as environment.

        Decisions are small and short-lived: twice the garbage of Go's default takes a tenth off
        OPA's time. Twice as much again takes another, and 2,000 policies then need 260 MB.
        """
        return {"GOGC": "200", "GOMEMLIMIT": str(self.memory_bytes // 2)}


@frozen
class OpaStatus:
    running: bool
    ready: bool
    active_revision: str | None
    restarts: int
    last_error: str


class Opa:
    """What both kinds have in common: one that the gateway runs, and one that somebody else runs.

    `ready` is what the hot path asks first: without it a call is refused and nothing is dialled.
    """

    address: UnixAddress | TcpAddress

    def __init__(self, bundles: BundleServer, options: OpaOptions | None) -> None:
        self._bundles = bundles
        self._options = options or OpaOptions()
        self._became_ready = asyncio.Event()
        self._revision: str | None = None
        self._restarts = 0
        self._last_error = ""

    @property
    def running(self) -> bool:
        """Whether there is one, answering or not."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """OPA runs and answered from a bundle of ours that is not out of date for long."""
        if self._revision is None or self._bundles.digest_of(self._revision) is None:
            return False
        late = time.monotonic() - self._bundles.offered_at > _CATCH_UP_SECONDS
        return self._revision == self._bundles.revision or not late

    def status(self) -> OpaStatus:
        return OpaStatus(
            running=self.running,
            ready=self.ready,
            active_revision=self._revision,
            restarts=self._restarts,
            last_error=self._last_error,
        )

    async def start(self, bundle_url: str) -> None:
        """Begin to look after it; `bundle_url` is the management listener's."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Look after it no longer; what it keeps for the next start stays."""
        raise NotImplementedError

    async def wait_ready(self, seconds: float) -> None:
        """Return when OPA answers from the current bundle. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not (self.ready and self._revision == self._bundles.revision):
                self._became_ready.clear()
                await self._became_ready.wait()

    async def answers_from(self, revision: str, seconds: float) -> bool:
        """Whether OPA answers from this bundle, at the latest in so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self._revision != revision:
                    self._became_ready.clear()
                    await self._became_ready.wait()
        except TimeoutError:
            return False
        return True

    def _note(self, revision: str) -> None:
        if revision != self._revision:
            _log.info("opa answers from a bundle", revision=revision)
            self._revision, self._last_error = revision, ""
            self._became_ready.set()

    async def _until_next_check(self, missed: int) -> None:
        """A moment while a bundle is awaited of an OPA that answers, else until there is one."""
        current = self._bundles.current
        late = time.monotonic() - self._bundles.offered_at > _CATCH_UP_SECONDS
        behind = current is None or current.revision != self._revision
        if missed == 0 and behind and (self._revision is None or not late):
            await asyncio.sleep(_STARTING_POLL)
        else:
            known = set() if current is None else {current.digest}
            await self._bundles.news(known, self._options.check_seconds)


def prepare(folder: Path, token: str, key: bytes) -> None:
    """Make the folder that an OPA is given, for nobody else to see. Raises OSError."""
    for made in (folder, folder / STATE):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.chmod(0o700)
    for name, secret in ((TOKEN, token), (KEY, signing_secret(key))):
        path = folder / name
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secret)
