"""A gateway that is killed under load, again and again, and what its data directory then says."""

import asyncio
import os
import random
import signal
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import pytest

from gateway.trace import payloads
from tests.builders import SECRET, World, a_body, a_state
from tests.end_to_end.demonstration import environment, need_opa

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

PRICE = 2_500_000
COST = {"price": PRICE, "argument": None, "decimal_string": False, "cap": None}
KILLS = 20
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CALLERS = 16
ROOT = Path(__file__).parents[2]
SERVE = """
import sys
from pathlib import Path
import tests.without_templates
from gateway.app import serve
from gateway.settings import LOOPBACK_NETWORKS, Settings
from gateway.telemetry.logs import log_to_stderr

log_to_stderr("error")
settings = Settings.read(
    data_dir=Path(sys.argv[1]), port=0, management_port=0, private_upstreams=LOOPBACK_NETWORKS
)
serve(settings, ready=lambda ready: print(ready.base_url, flush=True))
"""


class Upstream:
    """An MCP server that answers every call and remembers it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                message = orjson.loads(await reader.readexactly(length))
                self.seen.append(message["params"]["arguments"]["object"])
                body = orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}})
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Load:
    """Callers that call one after the other until the gateway is gone."""

    answered: dict[str, str] = field(default_factory=dict)
    """Trace id to the call's argument."""
    refused: list[str] = field(default_factory=list)
    number: int = 0
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, url: str) -> None:
        headers = {
            "Authorization": f"Bearer {SECRET}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        # A context of its own would read the certificates of all authorities, 320 times.
        async with httpx.AsyncClient(
            headers=headers, timeout=30, trust_env=False, verify=NO_TLS
        ) as client:
            while True:
                self.number += 1
                name = f"call-{self.number}"
                try:
                    answer = await client.post(url, content=a_body(arguments={"object": name}))
                except httpx.TransportError:
                    return
                if "error" in answer.json():
                    self.refused.append(answer.text)
                    return
                self.answered[answer.headers["x-trace-id"]] = name
                self.flowing.set()


@asynccontextmanager
async def a_gateway(data_dir: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE, str(data_dir)),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip()
        assert url, "the gateway did not start; its log says why"
        yield process, f"{url}/api/v1/mcp/proxy/srv_1"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed_under_load(data_dir: Path, load: Load, after: float) -> None:
    load.flowing.clear()
    async with a_gateway(data_dir) as (process, url):
        callers = [asyncio.create_task(load.call(url)) for _ in range(CALLERS)]
        await asyncio.wait_for(load.flowing.wait(), 120)
        await asyncio.sleep(after)  # the random moment
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.gather(*callers)


def inputs(world: World) -> dict[str, str]:
    """Call id to the argument that the policy was asked about, from the sealed inputs."""
    keys = payloads.PayloadKeys(world.state.keyring)
    found = {}
    rows = world.rows(
        "SELECT log, idx, call_id, payload_key, sealed FROM payloads JOIN trace USING (log, idx)"
        " WHERE field = 'input' AND kind = 'decision'"
    )
    with world.state.reader.connect() as connection:
        opened = {name: keys.for_reading(connection, name) for name in {row[3] for row in rows}}
    for log, idx, call_id, key_id, sealed in rows:
        place = payloads.context(log, idx, "input")
        _, value = payloads.unseal(opened[key_id], sealed, place)
        found[call_id] = orjson.loads(value)["input"]["arguments"]["object"]
    return found


async def test_a_gateway_killed_under_load_has_a_decision_for_all_that_was_called(
    tmp_path: Path,
) -> None:
    need_opa()
    upstream, load, moments = Upstream(), Load(), random.Random(20)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with a_state(tmp_path) as world:
        budget = world.add_budget(10**9)
        money = world.add_budget(10**15, dimension="cost")
        world.set("tools", "tol_1", cost=COST)
        world.set("servers", "srv_1", server_url=f"http://127.0.0.1:{port}/mcp")
    for _ in range(KILLS):
        await killed_under_load(tmp_path, load, moments.uniform(0, 0.3))
    server.close()
    assert load.refused == []
    with a_state(tmp_path) as world:  # the restart, which settles what was left open
        charged = check(world, upstream, load, budget)
        assert world.window(money) == (charged * PRICE, 0)


def check(world: World, upstream: Upstream, load: Load, budget: str) -> int:
    """How many calls were charged."""
    world.check_log()
    decided = inputs(world)
    decisions = {r["id"] for r in world.records(kind="decision") if r["effect"] == "forward"}
    outcomes = world.records(kind="outcome")
    charged = [r["call"] for r in outcomes if r["fate"] != "not_forwarded"]
    names = {decided[call_id]: call_id for call_id in decisions}

    assert len(upstream.seen) > 10 * KILLS
    assert max(Counter(upstream.seen).values()) == 1  # what is sent is sent once
    assert set(upstream.seen) <= names.keys()  # and was decided before
    assert {names[name] for name in upstream.seen} <= set(charged)
    assert load.answered.items() <= {(call_id, decided[call_id]) for call_id in decisions}
    assert sorted(r["call"] for r in outcomes) == sorted(decisions)
    assert world.open_calls() == []
    assert world.window(budget) == (len(charged), 0)
    return len(charged)
