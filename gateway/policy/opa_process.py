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

from gateway.http1.client import UnixAddress
from gateway.policy import launch
from gateway.policy.bundle_server import BundleServer
from gateway.policy.opa import KEY, STATE, TOKEN, Opa, OpaOptions, prepare
from gateway.settings.opa import LONGEST_SOCKET_PATH

_log = structlog.get_logger("gateway.opa")

_START_SECONDS = 20.0
_STOP_SECONDS = 3.0
_STEADY_SECONDS = 30.0


class OpaProcess(Opa):
    """One OPA process on a Unix socket in a private folder."""

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
        super().__init__(bundles, options)
        self._binary = binary
        self._config = config.resolve()
        self._folder = data_dir.resolve() / "opa"
        self._token, self._key = token, key
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.socket_path = self._choose_socket()
        self.address = UnixAddress(str(self.socket_path))

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    async def start(self, bundle_url: str) -> None:
        """Prepare the folder and start supervising."""
        prepare(self._folder, self._token, self._key)
        self._supervisor = asyncio.create_task(self._supervise(bundle_url), name="opa")

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
            *("--config-file", str(self._config), "--set-file", f"keys.bundle.key={KEY}"),
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
            "GATEWAY_BUNDLE_TOKEN_FILE": TOKEN,
            "GATEWAY_OPA_STATE": STATE,
        }

    async def _watch(self) -> None:
        """Ask which revision answers, often while one is awaited; return once OPA hangs."""
        missed = 0
        give_up_starting = time.monotonic() + _START_SECONDS
        # Half a second of imports, while OPA starts and compiles on another core.
        probes = await asyncio.to_thread(importlib.import_module, "gateway.policy.probe")
        async with probes.Probe(self.address) as probe:
            while missed < self._options.missed_checks:
                answer = await probe.ask()
                if answer is not None:
                    missed = 0
                    self._note(answer.revision)
                elif self._revision is not None or time.monotonic() > give_up_starting:
                    missed += 1
                await self._until_next_check(missed)
        self._last_error = f"no answer to {missed} checks in a row; killed"

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
