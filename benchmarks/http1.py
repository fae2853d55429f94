"""Compare our HTTP/1.1 client with aiohttp and httpx against an OPA-like server on a Unix socket.

    python benchmarks/http1.py [requests]

The server is a process of its own. CPU is this process's own time per call: what the client
costs the gateway, whatever the machine's other core does.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import aiohttp
import httpx
import uvloop
from rich.console import Console
from rich.table import Table

from gateway.http1.client import Client, UnixAddress, build_head

BODY = b'{"input":' + b'"' + b"x" * 588 + b'"}'
ANSWER = b'{"result":{"action":"ALLOW","findings":[]},"provenance":{"version":"1.22.2"}}'
TARGET = "/v1/data/gateway/decision?provenance=true"
Ask = Callable[[], Awaitable[object]]


class Server(asyncio.Protocol):
    """Answers each request with the same decision; requests are never pipelined here."""

    answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Date: Sun, 01 Jan 2023 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
    ) + ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.seen = b""

    def data_received(self, data: bytes) -> None:
        self.seen += data
        if self.seen.endswith(BODY):
            self.seen = b""
            self.transport.write(self.answer)


async def serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Server, path)
    print("ready", flush=True)
    await server.serve_forever()


async def measure(name: str, ask: Ask, count: int, parallel: int, table: Table) -> None:
    async def some(times: list[float], share: int) -> None:
        for _ in range(share):
            begun = time.perf_counter()
            await ask()
            times.append(time.perf_counter() - begun)

    await some([], min(count, 200))
    times: list[float] = []
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(some(times, count // parallel) for _ in range(parallel)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    times.sort()
    table.add_row(
        name,
        str(parallel),
        f"{len(times) / wall:,.0f}",
        f"{times[len(times) // 2] * 1e6:.0f}",
        f"{times[len(times) * 99 // 100] * 1e6:.0f}",
        f"{cpu / len(times) * 1e6:.0f}",
    )


async def compare(path: str, count: int) -> Table:
    table = Table(title=f"{len(BODY)} bytes asked, {len(ANSWER)} answered, Unix socket, uvloop")
    for title in ("client", "in flight", "calls/s", "p50 µs", "p99 µs", "client CPU µs"):
        table.add_column(title, justify="left" if title == "client" else "right")
    url = "http://opa" + TARGET
    kind = {"content-type": "application/json"}
    ours = Client(UnixAddress(path))

    async def ask_ours() -> object:
        head = build_head(
            "POST",
            TARGET,
            ((b"host", b"opa"), (b"content-type", b"application/json")),
            len(BODY),
        )
        return await ours.request(head, BODY, deadline=time.monotonic() + 0.25, max_body=65536)

    for parallel in (1, 32):
        await measure("gateway.http1.client", ask_ours, count, parallel, table)
    ours.close()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:

        async def ask_aiohttp() -> object:
            async with session.post(url, data=BODY, headers=kind) as response:
                return await response.read()

        for parallel in (1, 32):
            await measure("aiohttp", ask_aiohttp, count, parallel, table)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path)) as client:

        async def ask_httpx() -> object:
            return (await client.post(url, content=BODY, headers=kind)).content

        for parallel in (1, 32):
            await measure("httpx", ask_httpx, count // 5, parallel, table)
    return table


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "serve":
        uvloop.run(serve(sys.argv[2]))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "s")
        command = [sys.executable, __file__, "serve", path]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as server:
            assert server.stdout is not None
            server.stdout.readline()
            try:
                Console().print(uvloop.run(compare(path, count)))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
