"""A gateway that runs as a process of its own, and whose log is a file."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.demonstration import descendants, environment
from tests.places import variables_of

ROOT = Path(__file__).parents[1]
START_SECONDS = 120
END_SECONDS = 60


@dataclass(frozen=True)
class GatewayProcess:
    process: "asyncio.subprocess.Process"
    base_url: str
    management_url: str
    log: Path

    @property
    def proxy_url(self) -> str:
        """Of the server that `tests.builders.a_state` makes."""
        return f"{self.base_url}/api/v1/mcp/proxy/srv_1"

    @property
    def pid(self) -> int:
        return self.process.pid

    def memory(self) -> int:
        """Bytes in memory now (Linux)."""
        return self._status("VmRSS")

    def most_memory(self) -> int:
        """Bytes that were ever in memory at once (Linux)."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def opa(self) -> int:
        """OPA's process id; raises `ValueError` while there is none."""
        [found] = [pid for pid in descendants(self.pid) if _name_of(pid) == "opa"]
        return found

    async def end(self) -> None:
        """Tell it to end, and wait until it has."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.process.wait(), END_SECONDS)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


@asynccontextmanager
async def a_gateway(
    data_dir: Path,
    *options: str,
    settings: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> AsyncIterator[GatewayProcess]:
    """A gateway that answers; killed at the end if it still runs.

    ``options`` are those of `tests.served_gateway`; its log stands beside its data without ``log``.
    """
    log = log or data_dir.with_name(data_dir.name + ".log")
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.served_gateway", str(data_dir), *options),
            cwd=ROOT,
            env={**environment(), **variables_of(data_dir), **(settings or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        assert line, f"the gateway did not start: {log.read_text()[-4000:]}"
        base_url, management_url = json.loads(line)
        yield GatewayProcess(process, base_url, management_url, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
