"""An OPA that somebody else runs beside the gateway: a container of the same pod, a service."""

import asyncio
import contextlib
import importlib
import re
import shutil
import stat
from pathlib import Path

import structlog

from gateway.http1.client import TcpAddress, UnixAddress
from gateway.policy.bundle_server import BundleServer
from gateway.policy.opa import KEY, STATE, TOKEN, Opa, OpaOptions, prepare
from gateway.policy.opa_binary import OPA_VERSION
from gateway.settings.opa import OpaPlace, opa_place

_log = structlog.get_logger("gateway.opa")

SOCKET = "opa.sock"
CONFIG = "opa-config.yaml"
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)


def url_of(folder: Path) -> str:
    """Where OPA answers in it. Raises ValueError when no URL can say it."""
    path = folder / SOCKET
    if _PLAIN.fullmatch(str(path)) is None:
        raise ValueError(f"{folder}: OPA reads its path in a URL; name one of letters, digits, ._-")
    opa_place(f"unix://{path}")
    return f"unix://{path}"


def start_command(folder: Path) -> list[str]:
    """How OPA is started with what `hand_over` put there; `environment_of` has the rest.

    It listens before it has a bundle, and is not believed until then: were it to end instead, as
    `--ready-timeout` has it, whoever runs it would wait longer and longer to start it anew.
    """
    return [
        *("opa", "run", "--server", "--skip-version-check", "--log-level", "error"),
        *("--config-file", str(folder / CONFIG), "--set-file", f"keys.bundle.key={folder / KEY}"),
        *("--addr", f"unix://{folder / SOCKET}", "--unix-socket-perm", "600"),
    ]


def environment_of(folder: Path, bundle_url: str) -> dict[str, str]:
    """The variables that the configuration and Go's collector read."""
    return {
        **OpaOptions().collector,
        "GATEWAY_BUNDLE_URL": bundle_url,
        "GATEWAY_BUNDLE_TOKEN_FILE": str(folder / TOKEN),
        "GATEWAY_OPA_STATE": str(folder / STATE),
    }


def hand_over(folder: Path, config: Path, token: str, key: bytes) -> None:
    """Put into a folder all that such an OPA is started with. Raises OSError."""
    prepare(folder, token, key)
    shutil.copyfile(config, folder / CONFIG)


class Sidecar(Opa):
    """Watched and asked, neither started nor ended."""

    def __init__(
        self,
        place: OpaPlace,
        bundles: BundleServer,
        options: OpaOptions | None = None,
    ) -> None:
        super().__init__(bundles, options)
        self.address = UnixAddress(str(place)) if isinstance(place, Path) else TcpAddress(*place)
        self._watching: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._revision is not None

    async def start(self, bundle_url: str) -> None:
        """Begin to watch; whoever runs it has told it `bundle_url`."""
        self._watching = asyncio.create_task(self._watch(), name="opa")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        missed = 0
        # Half a second of imports; see `gateway.policy.opa_process`.
        probes = await asyncio.to_thread(importlib.import_module, "gateway.policy.probe")
        async with probes.Probe(self.address) as probe:
            while True:
                wrong = self._open_to_others()
                answer = None if wrong else await probe.ask()
                if answer is not None and answer.version != OPA_VERSION:
                    wrong = f"it is {answer.version}; this gateway needs exactly {OPA_VERSION}"
                if wrong:
                    self._lose(wrong)
                elif answer is not None:
                    self._note(answer.revision)
                missed = missed + 1 if answer is None or wrong else 0
                if missed == self._options.missed_checks and not wrong:
                    self._lose(f"no answer to {missed} checks in a row; see whether it runs")
                await self._until_next_check(missed)

    def _lose(self, why: str) -> None:
        where = self.address
        told = where.path if isinstance(where, UnixAddress) else f"{where.host}:{where.port}"
        said = f"OPA at {told}: {why}"
        if self._last_error != said:
            _log.warning("opa does not decide", error=said)
        self._revision, self._last_error = None, said

    def _open_to_others(self) -> str:
        """Whoever may write the socket's folder could put a socket of his own there."""
        if isinstance(self.address, TcpAddress):
            return ""
        folder = Path(self.address.path).parent
        with contextlib.suppress(OSError):  # that it is missing, the question itself will show
            mode = folder.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                return f"anybody may write {folder}; chmod 700 {folder}"
        return ""
