"""A program that runs as an MCP server: whole lines in, whole lines out, none of them too long.

Framing: 2025-11-25 and 2026-07-28, basic/transports, "stdio".
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Literal

import structlog

from gateway.frozen import frozen
from gateway.http1.client import NotSent
from gateway.mcp.lossless import read_json, write_json
from gateway.mcp.stdio_programs import Program, Programs, environment, sandboxed
from gateway.policy import launch

_log = structlog.get_logger(__name__)

# Not JSON's line ends, but those of readers that split text: Node's readline, Python's splitlines.
_OTHER_LINE_ENDS = (
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
    (b"\xc2\x85", b"\\u0085"),
)

End = Literal["died", "too_large"]


@frozen
class StdioLimits:
    """Seconds and bytes."""

    line_bytes: int = 4 * 1024 * 1024
    unread_bytes: int = 8 * 1024 * 1024
    """What a program, or a caller, may leave unread."""
    answer_seconds: float = 5.0
    """How long an answer may take to be sent whole; then its stream begins."""
    discover_seconds: float = 5.0
    """How long a program that knows only the legacy era may be silent at `server/discover`."""
    idle_seconds: float = 1800.0
    """A session that nobody used for so long ends."""
    close_seconds: float = 2.0
    """Between closing its input, SIGTERM and SIGKILL."""
    back_off_seconds: float = 0.5
    back_off_most: float = 60.0
    log_lines: int = 50
    """Of its standard error, each `log_seconds`."""
    log_seconds: float = 10.0
    log_bytes: int = 2000


def as_line(body: bytes) -> bytes:
    """A JSON message as one line, whoever reads it. Raises `gateway.mcp.lossless.Unreadable`."""
    if b"\n" in body or b"\r" in body:
        body = write_json(read_json(body))
    # Outside of strings these bytes are no JSON, so this never changes what the message says.
    for raw, escaped in _OTHER_LINE_ENDS:
        if raw in body:
            body = body.replace(raw, escaped)
    return body


class Child:
    """One process. `hear` gets each line, `gone` is called once, when it ended or was given up."""

    def __init__(
        self,
        program: Program,
        process: Process,
        limits: StdioLimits,
        hear: Callable[[bytes], None],
        gone: Callable[[End], None],
        home: str,
    ) -> None:
        self._program = program
        self._process = process
        self._limits = limits
        self._hear = hear
        self._gone = gone
        self._home = home
        self._over = False
        self._ending = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @property
    def pid(self) -> int:
        return self._process.pid

    def check_ready(self) -> None:
        """Raises `NotSent` when the process ended or does not read what it was sent."""
        stdin = self._process.stdin
        assert stdin is not None
        if self._over or stdin.transport.is_closing():
            raise NotSent("the server's process has ended")
        if stdin.transport.get_write_buffer_size() > self._limits.unread_bytes:
            raise NotSent("the server's process does not read what it is sent")

    def write(self, line: bytes) -> None:
        """Send one line at once, never in part. It must come from `as_line` or `write_json`."""
        stdin = self._process.stdin
        assert stdin is not None
        if not self._over:
            stdin.write(line + b"\n")

    def end(self) -> None:
        """Begin to end it: its input is closed, then it is told to stop, then it is killed."""
        self._ending.set()

    async def _run(self) -> None:
        errors = asyncio.create_task(self._log_errors())
        reading = asyncio.create_task(self._read())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
            self._over = True
            self._gone("too_large" if reading.done() and reading.result() else "died")
            await self._stop(patient=not reading.done())
        finally:
            self._kill(signal.SIGKILL)
            for task in (errors, reading, ending):
                task.cancel()
            await asyncio.gather(errors, reading, ending, return_exceptions=True)
            await self._empty_pipes()
            if self._home:
                shutil.rmtree(self._home, ignore_errors=True)

    async def _read(self) -> bool:
        """Hear lines until there are no more; true: one was too long."""
        stdout = self._process.stdout
        assert stdout is not None
        held = bytearray()
        while chunk := await stdout.read(65536):
            searched = len(held)
            held += chunk
            while (end := held.find(b"\n", searched)) >= 0:
                line = bytes(held[:end]).rstrip(b"\r")
                del held[: end + 1]
                searched = 0
                if len(line) > self._limits.line_bytes:
                    return True
                if line:
                    self._hear(line)
            if len(held) > self._limits.line_bytes:
                _log.warning("a line is too long", program=self._program.name)
                return True
        return False

    async def _stop(self, *, patient: bool) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        steps = (None, signal.SIGTERM, signal.SIGKILL) if patient else (signal.SIGKILL,)
        for step in steps:
            if step is not None:
                self._kill(step)
            try:
                async with asyncio.timeout(self._limits.close_seconds):
                    await self._process.wait()
                    break
            except TimeoutError:
                continue
        _log.info("ended", program=self._program.name, status=self._process.returncode)

    async def _empty_pipes(self) -> None:
        """A pipe that nobody reads to its end stays open, also when its writer is dead."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.close_seconds):
                for pipe in (self._process.stdout, self._process.stderr):
                    while pipe is not None and await pipe.read(65536):
                        pass

    def _kill(self, number: signal.Signals) -> None:
        """The whole group: without a sandbox the program may have children."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    async def _log_errors(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        limits = self._limits
        since, lines, rest = monotonic(), 0, b""
        while chunk := await stderr.read(65536):
            *whole, rest = (rest + chunk).split(b"\n")
            rest = self._redacted(rest)[-limits.log_bytes :]
            if monotonic() - since > limits.log_seconds:
                if lines > limits.log_lines:
                    dropped = lines - limits.log_lines
                    _log.warning("lines left out", program=self._program.name, lines=dropped)
                since, lines = monotonic(), 0
            for line in whole:
                lines += 1
                if lines <= limits.log_lines:
                    self._log_error(line)

    def _log_error(self, line: bytes) -> None:
        shown = self._redacted(line)[: self._limits.log_bytes]
        text = shown.decode("utf-8", "backslashreplace").rstrip()
        _log.info("stderr", program=self._program.name, pid=self.pid, line=text)

    def _redacted(self, text: bytes) -> bytes:
        for secret in self._program.secrets:
            text = text.replace(secret, b"***")
        return text


async def start(
    program: Program,
    programs: Programs,
    limits: StdioLimits,
    hear: Callable[[bytes], None],
    gone: Callable[[End], None],
) -> Child:
    """Run a program that dies with the gateway, however that dies. Raises `NotSent`."""
    home = ""
    if programs.bwrap is not None:
        command, env, cwd = sandboxed(programs.bwrap, program), environment(program), "/"
    elif programs.unsafe and sys.platform == "linux":
        home = cwd = tempfile.mkdtemp(prefix="mcp-stdio-")
        command, env = list(program.command), environment(program, home)
    else:
        raise NotSent("bubblewrap cannot be used here; see docs/upstreams.md, stdio")
    lifeline = [str(os.getpid()), str(program.memory_bytes), "prctl"]
    launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__)), *lifeline]
    try:
        process = await asyncio.create_subprocess_exec(
            *(*launcher, *command),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as fault:
        if home:
            shutil.rmtree(home, ignore_errors=True)
        raise NotSent(f"the server's program cannot be started: {fault}") from None
    _log.info("started", program=program.name, pid=process.pid, isolated=programs.bwrap is not None)
    return Child(program, process, limits, hear, gone, home)
