"""What lies around a gateway and fails: names that do not resolve, policies that storm in."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.end_to_end.demonstration import need_opa
from tests.faults.line import PASSED, Line, check, prepare
from tests.faults.table import shows
from tests.faults.upstream import an_upstream
from tests.gateway_process import a_gateway

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

UNREACHABLE = "-31007 upstream_unreachable"
DENIED = "-31003 policy_denied"
EDITS = 200
POLICY = """package policies.all.storm

import rego.v2

findings contains {{"action": "{action}", "policy_id": "storm-{number}", "reason": "a test"}}
"""


@shows(
    *("The tool's server", "has a name that no longer resolves, or whose resolver says nothing"),
    *("−31007 `upstream_unreachable`", "`not_forwarded`", "the name resolves again"),
)
async def test_a_name_that_stops_resolving_is_told_and_found_again(tmp_path: Path) -> None:
    need_opa()
    names = tmp_path / "names"

    def resolve_to(address: str | None) -> None:
        aside = tmp_path / "aside"
        aside.write_text(json.dumps({"tools.example": address}))
        aside.rename(names)

    resolve_to("127.0.0.1")
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", f"http://tools.example:{upstream.port}/mcp")
        options = ("--names", str(names))
        async with a_gateway(tmp_path / "data", *options) as gateway, Line(gateway) as line:
            await line.until()
            before = gateway.memory()
            for address in (None, ""):
                resolve_to(address)
                # Connections that there are need no name.
                await upstream.die()
                await upstream.start()
                await line.until(UNREACHABLE)
                if address is None:  # what waits for a resolver waits for seconds
                    said = await asyncio.gather(*(line.call() for _ in range(16)))
                    assert set(said) == {UNREACHABLE}
                resolve_to("127.0.0.1")
                await line.until()
            assert gateway.memory() - before < 64 * 1024**2
            await gateway.end()
        fates = check(tmp_path / "data", upstream.seen, budget)
    assert {fates[name] for name, said in line.told.items() if said == UNREACHABLE} == {
        "not_forwarded"
    }


@shows(
    *("OPA", "gets hundreds of policies in a row, while calls run"),
    *("nothing", "each call's own revision", "nothing to do; the last one decides"),
)
async def test_in_a_storm_of_policies_nobody_is_refused_and_the_last_one_decides(
    tmp_path: Path,
) -> None:
    need_opa()
    policy = tmp_path / "policies" / "all" / "storm.rego"
    policy.parent.mkdir(parents=True)

    def write(number: int, action: str) -> None:
        aside = tmp_path / "aside.rego"
        aside.write_text(POLICY.format(number=number, action=action))
        aside.rename(policy)

    write(0, "LOG_ONLY")
    settings = {"GATEWAY_POLICY_DIRS": str(tmp_path / "policies")}
    async with an_upstream() as upstream:
        budget = prepare(tmp_path / "data", upstream.url)
        async with (
            a_gateway(tmp_path / "data", settings=settings) as gateway,
            Line(gateway) as line,
        ):
            await line.until()
            before = gateway.memory()
            for number in range(EDITS):
                write(number, "LOG_ONLY")
                if number % 2:
                    assert await line.call() == PASSED
            write(EDITS, "DENY")
            await line.until(DENIED)
            assert set(line.told.values()) == {PASSED, DENIED}
            said = await asyncio.gather(*(line.call() for _ in range(16)))
            assert set(said) == {DENIED}
            assert gateway.memory() - before < 64 * 1024**2
            await gateway.end()
        check(tmp_path / "data", upstream.seen, budget)
