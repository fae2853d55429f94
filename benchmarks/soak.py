"""Whether memory stays where it is: streams held open while calls run, sessions come and gone.

    python -m benchmarks.soak [--streams 500] [--seconds 60] [--sessions 10000] [--json]

The MCP server is in this process and counts the streams and sessions that it holds. Memory is the
resident set of the gateway's process, read from /proc: Linux only. Each part begins with a warm-up
that does the same work, and what counts is the difference to the moment when that was over.
"""

import argparse
import asyncio
import itertools
import json
import re
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.calls import Subject, gateway
from benchmarks.upstream import ANSWER, CALL, DISCOVER, HEADERS, LIST

GOAL_MB = 5.0
"""That memory may rise after the warm-up."""
CALLERS = 4
SESSIONS_AT_ONCE = 16
PATIENCE = 60
_EVENT = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}\n\n'
_LEGACY = {"Content-Type": "application/json", "MCP-Protocol-Version": "2025-11-25"}
_ACCEPT = {"Accept": "application/json, text/event-stream"}
_INITIALIZE = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "soak", "version": "1"},
        },
    }
)
_INITIALIZED = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "soak", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Soaked:
    """Megabytes; ``left`` is what the server still held when every client was gone."""

    streams: int
    seconds: float
    calls: int
    late: int
    """Calls that were refused because the machine was too busy to decide in time."""
    events: int
    streams_before: float
    streams_least: float
    streams_most: float
    streams_after: float
    sessions: int
    sessions_before: float
    sessions_after: float
    streams_left: int
    sessions_left: int

    @property
    def faults(self) -> list[str]:
        said = []
        if not self.calls or self.events < self.streams:
            said.append(
                "calls were not answered, or streams not relayed, while memory was measured"
            )
        # The least, because what was given back must not hide what is never given back.
        if abs(self.streams_after - self.streams_before) > GOAL_MB:
            said.append("memory is not flat while streams are open")
        if self.sessions_after - self.sessions_before > GOAL_MB:
            said.append("sessions that ended left memory behind")
        if self.streams_left or self.sessions_left:
            said.append("the server still holds streams or sessions that clients have left")
        return said


class Upstream(asyncio.Protocol):
    """One connection of an MCP server with sessions, whose GET is a stream of an event a second."""

    sessions: set[bytes] = set()
    streams: set["Upstream"] = set()
    _numbers = itertools.count()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._read = b""

    def connection_lost(self, exc: Exception | None) -> None:
        Upstream.streams.discard(self)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (head_end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:head_end]
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._read) < end:
                return
            body, self._read = self._read[head_end + 4 : end], self._read[end:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET"):
            Upstream.streams.add(self)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Connection: close\r\n\r\n" + _EVENT
            )
        elif head.startswith(b"DELETE"):
            session = re.search(rb"(?i)mcp-session-id: *(\S+)", head)
            Upstream.sessions.discard(session[1] if session else b"")
            self._say({})
        else:
            self._called(orjson.loads(body))

    def _called(self, message: dict[str, Any]) -> None:
        method = message["method"]
        if method == "initialize":
            session = b"s%d" % next(Upstream._numbers)
            Upstream.sessions.add(session)
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": _INITIALIZED}
            self._say(answer, b"Mcp-Session-Id: %b\r\n" % session)
        else:
            self._say({"server/discover": DISCOVER, "tools/list": LIST}.get(method, ANSWER))

    def _say(self, answer: object, header: bytes = b"") -> None:
        body = orjson.dumps(answer)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
        self._transport.write(head % (header, len(body)) + body)

    def tell(self) -> None:
        self._transport.write(_EVENT)


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    async with asyncio.TaskGroup() as group:
        telling = group.create_task(_tell_all())
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        telling.cancel()
    server.close()


async def _tell_all() -> None:
    while True:
        await asyncio.sleep(1)
        for stream in list(Upstream.streams):
            stream.tell()


class Late(RuntimeError):
    """OPA had not answered in time, as happens where the machine is busy with something else."""


class Client:
    """One connection to the gateway, with as much of HTTP as it needs."""

    def __init__(self, subject: Subject) -> None:
        host, _, path = subject.url.removeprefix("http://").partition("/")
        self._host, self._path = host, "/" + path
        self._key = subject.key

    async def __aenter__(self) -> "Client":
        name, _, port = self._host.partition(":")
        self._reader, self._writer = await asyncio.open_connection(name, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(
        self, method: str, headers: dict[str, str], body: bytes = b""
    ) -> tuple[dict[str, str], bytes]:
        """The head and, where the answer is no stream, the body. Raises `RuntimeError`."""
        all_headers = {**headers, **_ACCEPT, "Authorization": f"Bearer {self._key}"}
        lines = [f"{method} {self._path} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in all_headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        found = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        told = await self._reader.readexactly(int(found.get("content-length", "0")))
        if head.split(" ", 2)[1] != "200" or b'"error"' in told:
            fault = Late if b'"policy_unavailable"' in told else RuntimeError
            raise fault(f"{method} was answered with {head}{told.decode()}")
        # A session's id is told apart by case.
        session = re.search(r"(?i)mcp-session-id: *(\S+)", head)
        return {"Mcp-Session-Id": session[1]} if session else {}, told

    async def read(self) -> bytes:
        return await self._reader.read(65536)


async def call(subject: Subject, calls: list[int], late: list[int]) -> None:
    async with Client(subject) as client:
        while True:
            try:
                await client.ask("POST", HEADERS, CALL)
                calls[0] += 1
            except Late:
                late[0] += 1


async def hold(subject: Subject, events: list[int], opened: Callable[[], object]) -> None:
    """A session with its stream, until it is cancelled; then both are ended as clients do."""
    async with Client(subject) as posting:
        session, _ = await posting.ask("POST", _LEGACY, _INITIALIZE)
    try:
        async with Client(subject) as listening:
            await listening.ask("GET", {**_LEGACY, **session})
            opened()
            while told := await listening.read():
                events[0] += told.count(b"data:")
            raise RuntimeError("a stream ended by itself")
    finally:
        # A connection that was silent for so long is closed by now.
        async with Client(subject) as leaving:
            await leaving.ask("DELETE", {**_LEGACY, **session})


async def come_and_go(subject: Subject, sessions: int) -> None:
    """Sessions opened, listened to for a moment, and dropped."""
    numbers = iter(range(sessions))

    async def some() -> None:
        async with Client(subject) as posting:
            for _ in numbers:
                session, _ = await posting.ask("POST", _LEGACY, _INITIALIZE)
                async with Client(subject) as listening:
                    await listening.ask("GET", {**_LEGACY, **session})
                await posting.ask("DELETE", {**_LEGACY, **session})

    async with asyncio.TaskGroup() as group:
        for _ in range(SESSIONS_AT_ONCE):
            group.create_task(some())


def resident(pid: int) -> float:
    """Megabytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what should come, up to a minute; who asks looks whether it did."""
    for _ in range(PATIENCE * 10):
        if holds():
            return
        await asyncio.sleep(0.1)


@asynccontextmanager
async def running(work: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Work that goes on meanwhile and is then cancelled; where one of it fails, so does this."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()


async def measure(subject: Subject, streams: int, seconds: float, sessions: int) -> Soaked:
    calls, late, events, opened = [0], [0], [0], itertools.count(1)
    reached = [0]

    def one_more() -> None:
        reached[0] = next(opened)

    holding = [hold(subject, events, one_more) for _ in range(streams)]
    calling = [call(subject, calls, late) for _ in range(CALLERS)]
    async with running(calling), running(holding):
        await until(lambda: reached[0] == streams)
        if reached[0] != streams:
            raise RuntimeError(f"only {reached[0]} of {streams} streams could be opened")
        await asyncio.sleep(max(1.0, seconds / 3))
        calls[0] = late[0] = events[0] = 0
        levels = [resident(subject.pid)]
        for _ in range(max(1, int(seconds))):
            await asyncio.sleep(1)
            levels.append(resident(subject.pid))
    made, heard = calls[0], events[0]
    await come_and_go(subject, sessions // 4)
    before = resident(subject.pid)
    await come_and_go(subject, sessions)
    await until(lambda: not Upstream.streams and not Upstream.sessions)
    return Soaked(
        streams=streams,
        seconds=seconds,
        calls=made,
        late=late[0],
        events=heard,
        streams_before=levels[0],
        streams_least=min(levels),
        streams_most=max(levels),
        streams_after=statistics.median(levels[-5:]),
        sessions=sessions,
        sessions_before=before,
        sessions_after=resident(subject.pid),
        streams_left=len(Upstream.streams),
        sessions_left=len(Upstream.sessions),
    )


async def soak(streams: int, seconds: float, sessions: int, folder: Path) -> Soaked:
    loop = asyncio.get_running_loop()
    async with upstream() as url:
        subject = gateway(folder / "data", url, rules=20)
        # Starting it asks the server here, so the loop must run meanwhile.
        started = await loop.run_in_executor(None, subject.__enter__)
        try:
            return await measure(started, streams, seconds, sessions)
        finally:
            await loop.run_in_executor(None, subject.__exit__, None, None, None)


def table(soaked: Soaked) -> str:
    one, two = soaked, soaked
    return "\n".join(
        (
            f"{'':34}{'before':>9}{'least':>9}{'most':>9}{'after':>9}   MB",
            f"{f'{one.streams} streams, {one.seconds:.0f} s, {one.calls} calls':34}"
            f"{one.streams_before:9.1f}{one.streams_least:9.1f}{one.streams_most:9.1f}"
            f"{one.streams_after:9.1f}",
            f"{f'{two.sessions} sessions come and gone':34}"
            f"{two.sessions_before:9.1f}{'':18}{two.sessions_after:9.1f}",
            f"{soaked.events} events relayed, {soaked.late} calls refused as too late to decide",
            f"the server still holds {soaked.streams_left} streams "
            f"and {soaked.sessions_left} sessions",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soaked = asyncio.run(soak(given.streams, given.seconds, given.sessions, Path(folder)))
    print(json.dumps(asdict(soaked)) if given.json else table(soaked))
    if soaked.faults:
        sys.exit("; ".join(soaked.faults))


if __name__ == "__main__":
    main()
