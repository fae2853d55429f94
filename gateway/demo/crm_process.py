"""The sample MCP server as a child process that never outlives this one."""

import subprocess
import sys
from types import TracebackType
from typing import Self


class CrmDidNotStart(Exception):
    """The sample server ended before it said its port; its own words are on standard error."""


class CrmProcess:
    """Starts at once and is waited for later: its imports take a second that others can use.

    The child ends when the pipe to its standard input closes, which the kernel does even when
    this process is killed.
    """

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway.demo.crm", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C goes to the gateway first, which may still have calls to finish.
            start_new_session=True,
        )

    def port(self) -> int:
        """Wait until it listens and return the port. Raises `CrmDidNotStart`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise CrmDidNotStart(
                "the sample MCP server did not start; is the extra installed? "
                "pip install 'policy-gateway[demo]'"
            )
        return int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
