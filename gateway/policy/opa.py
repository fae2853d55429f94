"""Keeps OPA running beside the gateway: started, watched, restarted, and ended with it."""

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from pathlib import Path

import orjson
import structlog

from gateway.frozen import frozen
from gateway.policy import launch
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import signing_secret

_log = structlog.get_logger("gateway.opa")

LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""`sockaddr_un` holds one byte more, for the NUL."""

_STARTING_POLL = 0.01
_START_SECONDS = 20.0
_STOP_SECONDS = 3.0
_STEADY_SECONDS = 30.0
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
    """An OPA that is alive and misses so many checks in a row is killed, and so restarted."""
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
    """One OPA process on a Unix socket in a private folder.

    `ready` is what the hot path asks first: without it a call is refused and nothing is dialled.
    """

    def __init__(
        self,
        *,
        binary: Path,
        config: Path,
        data_dir: Path,
        token: str,
        key: bytes,
        bundles: BundleServer,
        options: OpaOptions | None = None,
    ) -> None:
        self._binary = binary
        self._config = config.resolve()
        self._folder = data_dir.resolve() / "opa"
        self._secrets = {"token": token, "bundle.key": signing_secret(key)}
        self._bundles = bundles
        self._options = options or OpaOptions()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._became_ready = asyncio.Event()
        self._revision: str | None = None
        self._restarts = 0
        self._last_error = ""
        self.socket_path = self._choose_socket()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def ready(self) -> bool:
        """OPA runs and answered from a bundle of ours that is not out of date for long."""
        if self._revision is None or self._bundles.digest_of(self._revision) is None:
            return False
        late = time.monotonic() - self._bundles.offered_at > _CATCH_UP_SECONDS
        return self._revision == self._bundles.revision or not late

    def status(self) -> OpaStatus:
        return OpaStatus(
            running=self._process is not None,
            ready=self.ready,
            active_revision=self._revision,
            restarts=self._restarts,
            last_error=self._last_error,
        )

    async def start(self, bundle_url: str) -> None:
        """Prepare the folder and start supervising; `bundle_url` is the management listener's."""
        self._prepare()
        self._supervisor = asyncio.create_task(self._supervise(bundle_url), name="opa")

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

    async def stop(self) -> None:
        """End OPA and remove its socket; what it keeps for the next start stays."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        self.socket_path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()

    def _choose_socket(self) -> Path:
        path = self._folder / "opa.sock"
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return path
        self._temporary = tempfile.TemporaryDirectory(prefix="gateway-", dir="/tmp")
        return Path(self._temporary.name) / "opa.sock"

    def _prepare(self) -> None:
        for folder in (self._folder, self._folder / "state"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        for name, secret in self._secrets.items():
            path = self._folder / name
            path.unlink(missing_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secret)

    async def _supervise(self, bundle_url: str) -> None:
        pause = self._options.first_pause
        while True:
            started = time.monotonic()
            try:
                await self._run_once(bundle_url)
            except OSError as error:
                self._last_error = f"cannot start {self._binary}: {error}"
            if time.monotonic() - started > _STEADY_SECONDS:
                pause = self._options.first_pause
            _log.warning("opa ended", error=self._last_error, restart_in_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._options.longest_pause)
            self._restarts += 1

    async def _run_once(self, bundle_url: str) -> None:
        """One life of the process, from its start to its end."""
        process = await asyncio.create_subprocess_exec(
            *self._command(),
            env=self._environment(bundle_url),
            cwd=self._folder,
            stdin=PIPE if self._options.lifeline == "pipe" else DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            # Ctrl-C is for the gateway, which then ends OPA in its own order.
            start_new_session=True,
        )
        self._process = process
        ended = asyncio.create_task(process.wait())
        watching = asyncio.create_task(self._watch())
        listening = asyncio.create_task(self._listen(process))
        try:
            await asyncio.wait([ended, watching], return_when=asyncio.FIRST_COMPLETED)
            self._process, self._revision = None, None
            if watching.done():
                watching.result()
                _kill(process)
            await asyncio.wait([listening], timeout=1)
            self._last_error = self._last_error or f"exit code {await ended}"
        finally:
            self._process, self._revision = None, None
            for task in (watching, listening):
                task.cancel()
            await asyncio.wait([watching, listening])
            await _end(process)
            await ended

    def _command(self) -> list[str]:
        limits = [str(os.getpid()), str(self._options.memory_bytes), self._options.lifeline]
        # A name in the folder it runs in: OPA reads this as a URL, where a path may mean another.
        inside = self.socket_path.parent == self._folder
        address = self.socket_path.name if inside else str(self.socket_path)
        launcher = [sys.executable, "-I", "-S", launch.__file__, *limits, str(self._binary)]
        return launcher + [
            *("run", "--server", "--skip-version-check", "--log-level", "error"),
            *("--config-file", str(self._config), "--set-file", "keys.bundle.key=bundle.key"),
            *("--addr", f"unix://{address}", "--unix-socket-perm", "600"),
            *("--ready-timeout", "10", "--shutdown-grace-period", "1"),
        ]

    def _environment(self, bundle_url: str) -> dict[str, str]:
        """All that OPA sees of ours; whoever may ask it anything can read its environment."""
        return {
            **self._options.collector,
            "HOME": str(self._folder),
            "GATEWAY_BUNDLE_URL": bundle_url,
            # Relative to the folder it runs in, so that no character of a path needs quoting.
            "GATEWAY_BUNDLE_TOKEN_FILE": "token",
            "GATEWAY_OPA_STATE": "state",
        }

    async def _watch(self) -> None:
        """Ask which revision answers, often while one is awaited; return once OPA hangs."""
        missed = 0
        give_up_starting = time.monotonic() + _START_SECONDS
        # Half a second of imports, while OPA starts and compiles on another core.
        probes = await asyncio.to_thread(importlib.import_module, "gateway.policy.probe")
        async with probes.Probe(self.socket_path) as probe:
            while missed < self._options.missed_checks:
                revision = await probe.active_revision()
                if revision is not None:
                    missed = 0
                    self._note(revision)
                elif self._revision is not None or time.monotonic() > give_up_starting:
                    missed += 1
                await self._until_next_check(missed)
        self._last_error = f"no answer to {missed} checks in a row; killed"

    async def _until_next_check(self, missed: int) -> None:
        current = self._bundles.current
        late = time.monotonic() - self._bundles.offered_at > _CATCH_UP_SECONDS
        behind = current is None or current.revision != self._revision
        if missed == 0 and behind and (self._revision is None or not late):
            await asyncio.sleep(_STARTING_POLL)
        else:
            known = set() if current is None else {current.digest}
            await self._bundles.news(known, self._options.check_seconds)

    def _note(self, revision: str) -> None:
        if revision != self._revision:
            _log.info("opa answers from a bundle", revision=revision)
            self._revision, self._last_error = revision, ""
            self._became_ready.set()

    async def _listen(self, process: Process) -> None:
        """Log what OPA says, and keep its last complaint."""
        assert process.stderr is not None
        while chunk := await process.stderr.read(1 << 16):
            for line in chunk.splitlines():
                said, harmless = _read_line(line)
                if harmless:
                    _log.info("opa says", message=said)
                else:
                    self._last_error = said
                    _log.warning("opa complains", message=said)


def _read_line(line: bytes) -> tuple[str, bool]:
    """What OPA wrote, and whether it is no error (such as that it runs as root)."""
    try:
        entry = orjson.loads(line)
    except ValueError:
        # A dying Go program writes one line that says why, and hundreds of its stacks.
        text = line[:500].decode("utf-8", "replace")
        return text, not text.startswith(("fatal error", "runtime:", "panic", "error:"))
    if not isinstance(entry, Mapping):
        return str(entry)[:500], True
    text = " ".join(str(entry[key]) for key in ("msg", "err", "error") if key in entry)
    return text[:500], entry.get("level") == "warning"


def _kill(process: Process) -> None:
    # The group: where the launcher stays (see it), OPA is its child.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            _kill(process)
            await process.wait()
