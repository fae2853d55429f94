"""Nobody notices the proxy: each check gives through it what it gives without it."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.conformance.shim import Mutation, shim
from tests.conformance.suite import FIRST, LEGACY, MODERN, Check, Suite, all_checks, checks
from tests.end_to_end.demonstration import Running, need_opa, running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

FINE = Mutation(in_answer=(rb"^HTTP/1.1 4\d\d", b"HTTP/1.1 200"))
EXPECTED = {LEGACY: 84, MODERN: 152, FIRST: 44}
"""Checks that the fixture passes, all of them: a fixture that lacks something shows nothing."""


@pytest.fixture(scope="module")
def direct() -> Iterator[str]:
    """The fixture server without anything before it."""
    command = [sys.executable, str(Path(__file__).parent / "server.py")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port.isdigit(), "the fixture server did not start"
            yield f"http://localhost:{port}/mcp"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    need_opa()
    with running(tmp_path_factory.mktemp("demo") / "data") as live:
        yield live


async def proxied(live: Running, upstream: str) -> str:
    """Register, scan and activate the server; return the proxy's URL for it."""
    headers = {"Authorization": f"Bearer {live.demo.admin_key}"}
    base = f"{live.demo.base_url}/api/v1"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as admin:
        # The suite calls tools that no server has, to see how that is answered.
        settings = {"default_action": "ALLOW", "unknown_tools": "allow"}
        (await admin.patch("/projects/current", json=settings)).raise_for_status()
        new = {"name": "fixture", "server_url": upstream, "allow_private_network": True}
        answer = await admin.post("/mcp/servers", json=new)
        assert answer.status_code == 201, answer.text
        server: str = answer.json()["id"]
        (await admin.post(f"/mcp/servers/{server}/scan")).raise_for_status()
        active = {"status": "ACTIVE"}
        (await admin.patch(f"/mcp/servers/{server}", json=active)).raise_for_status()
    return f"{base}/mcp/proxy/{server}"


@pytest.mark.parametrize("suite", [LEGACY, MODERN, FIRST], ids=["2025-11-25", "2026-07-28", "0.1"])
async def test_each_check_gives_through_the_gateway_what_it_gives_without(
    live: Running, direct: str, suite: Suite
) -> None:
    behind_gateway = await proxied(live, direct.replace("localhost", "127.0.0.1"))
    async with shim(behind_gateway, live.demo.project_key) as through:
        # Both wait most of their time.
        without, behind = await asyncio.gather(
            all_checks(suite, direct), all_checks(suite, through)
        )
    passed = {check: count for check, count in without.items() if check[2] == "SUCCESS"}
    assert sum(passed.values()) == EXPECTED[suite]
    assert {status for _, _, status in without} <= {"SUCCESS", "WARNING"}
    assert behind == without


Broken = tuple[Suite, str, Mutation]
AT_ONCE: list[Broken] = [
    (LEGACY, "server-sse-polling", Mutation(drop="last-event-id")),
    (LEGACY, "server-sse-polling", Mutation(refuse=b"GET")),
    (LEGACY, "server-session-lifecycle", Mutation(refuse=b"DELETE")),
    (LEGACY, "server-session-lifecycle", FINE),
    (LEGACY, "ping", Mutation(in_answer=(rb"(?i)mcp-session-id", b"x-lost"))),
    (LEGACY, "tools-list", Mutation(in_body=(rb'"id":(\d+)', rb'"id":\1.5'))),
    (LEGACY, "dns-rebinding-protection", Mutation(host=b"localhost")),
    (MODERN, "http-custom-header-server-validation", Mutation(drop="^mcp-param-")),
    (MODERN, "tools-call-simple-text", Mutation(drop="^mcp-(method|name)")),
    (MODERN, "tools-list", Mutation(drop="^mcp-protocol-version")),
    (MODERN, "tools-call-simple-text", Mutation(in_answer=(b"resultType", b"resultKind"))),
    (MODERN, "http-header-validation", FINE),
]
AFTER_A_MINUTE: list[Broken] = [
    (LEGACY, "tools-call-sampling", Mutation(holds_answers=True)),
    (LEGACY, "tools-call-sampling", Mutation(one_at_a_time=True)),
    (LEGACY, "server-sse-polling", Mutation(in_answer=(rb"(?m)^(id|retry):.*\r?\n", b""))),
]
"""What only the suite's own time-out ends."""


@dataclass
class Sound:
    """What scenarios give without a mutation, each found out once."""

    server: str
    known: dict[tuple[Suite, str], Counter[Check]] = field(default_factory=dict)

    async def checks(self, suite: Suite, scenario: str) -> Counter[Check]:
        if (suite, scenario) not in self.known:
            found = await checks(suite, self.server, scenario)
            assert {status for _, _, status in found} == {"SUCCESS"}
            self.known[suite, scenario] = found
        return self.known[suite, scenario]


@pytest.fixture(scope="module")
def sound(direct: str) -> Sound:
    return Sound(direct)


async def broken(sound: Sound, suite: Suite, scenario: str, mutation: Mutation) -> Counter[Check]:
    async with shim(sound.server, mutation=mutation) as server:
        return await checks(suite, server, scenario)


@pytest.mark.parametrize(("suite", "scenario", "mutation"), AT_ONCE)
async def test_what_a_careless_proxy_breaks_is_seen(
    sound: Sound, suite: Suite, scenario: str, mutation: Mutation
) -> None:
    without = await sound.checks(suite, scenario)
    assert await broken(sound, suite, scenario, mutation) != without


async def test_what_a_careless_proxy_keeps_waiting_is_seen(sound: Sound) -> None:
    without = [await sound.checks(suite, scenario) for suite, scenario, _ in AFTER_A_MINUTE]
    behind = await asyncio.gather(*(broken(sound, *one) for one in AFTER_A_MINUTE))
    for one, expected, found in zip(AFTER_A_MINUTE, without, behind, strict=True):
        assert found != expected, one
