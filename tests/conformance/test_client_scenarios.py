"""A server does not notice the proxy either: the suite's client scenarios, through it and without.

Of `auth/*` one can be equal: `client-credentials-basic`, with the gateway as the client that gets
the token. In all others a server tells its client where to get one, and the client goes there. A
gateway keeps that to itself, so its clients pass none of those checks, and that is shown once.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conformance.suite import Check, client_checks
from tests.conformance.test_conformance import live
from tests.end_to_end.demonstration import Running

__all__ = ["live"]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

OLD, NEW = "2025-11-25", "2026-07-28"
PASSED = {
    ("initialize", OLD): 1,
    ("tools_call", OLD): 2,
    ("elicitation-sep1034-client-defaults", OLD): 5,
    ("sse-retry", OLD): 3,
    ("json-schema-2020-12-preservation", OLD): 9,
    ("tools_call", NEW): 2,
    ("request-metadata", NEW): 8,
    ("sep-2322-client-request-state", NEW): 5,
    ("http-standard-headers", NEW): 9,
    ("http-custom-headers", NEW): 18,
    ("http-invalid-tool-headers", NEW): 12,
    ("json-schema-ref-no-deref", NEW): 1,
    ("json-schema-2020-12-preservation", NEW): 9,
    ("auth/client-credentials-basic", OLD): 7,
    ("auth/client-credentials-basic", NEW): 6,
}
"""Checks that the client passes, all of them: one that does too little shows nothing."""


def environment(live: Running | None, tools: Path, **more: str) -> dict[str, str]:
    told = {"CONFORMANCE_TOOLS": str(tools), **more}
    if live is not None:
        demo = live.demo
        gateway = {
            "base_url": demo.base_url,
            "admin_key": demo.admin_key,
            "project_key": demo.project_key,
        }
        told["CONFORMANCE_GATEWAY"] = json.dumps(gateway)
    return told


@dataclass
class Direct:
    """What each scenario gives without a gateway, found out once."""

    folder: Path
    known: dict[tuple[str, str], Counter[Check]] = field(default_factory=dict)

    def tools(self, scenario: str, version: str) -> Path:
        return self.folder / f"{scenario.replace('/', '-')}-{version}.json"

    async def checks(self, scenario: str, version: str) -> Counter[Check]:
        if (scenario, version) not in self.known:
            told = environment(None, self.tools(scenario, version))
            self.known[scenario, version] = await client_checks(scenario, version, told)
        return self.known[scenario, version]


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Direct:
    return Direct(tmp_path_factory.mktemp("tools"))


@pytest.mark.parametrize(("scenario", "version"), PASSED)
async def test_each_check_of_a_client_gives_through_the_gateway_what_it_gives_without(
    live: Running, direct: Direct, scenario: str, version: str
) -> None:
    without = await direct.checks(scenario, version)
    through = environment(live, direct.tools(scenario, version))
    behind = await client_checks(scenario, version, through)
    if behind != without:
        # Some checks look at a clock, and a busy machine is late once in a while.
        behind = await client_checks(scenario, version, through)
    # Skipped is what the older era has: nobody initializes at 2026-07-28.
    assert {status for _, _, status in without} <= {"SUCCESS", "SKIPPED"}
    passed = sum(n for (_, _, status), n in without.items() if status == "SUCCESS")
    assert passed == PASSED[scenario, version]
    assert behind == without


@pytest.mark.parametrize(
    ("scenario", "version", "mutation"),
    [
        ("sse-retry", OLD, {"CONFORMANCE_DROP": "last-event-id"}),
        ("sse-retry", OLD, {"CONFORMANCE_STRIPS_IDS": "1"}),
        ("request-metadata", NEW, {"CONFORMANCE_DROP": "mcp-protocol-version"}),
        ("http-standard-headers", NEW, {"CONFORMANCE_DROP": "mcp-name"}),
        ("http-custom-headers", NEW, {"CONFORMANCE_DROP": "^mcp-param-"}),
    ],
)
async def test_what_a_careless_proxy_takes_from_a_client_is_seen(
    live: Running, direct: Direct, scenario: str, version: str, mutation: dict[str, str]
) -> None:
    without = await direct.checks(scenario, version)
    told = environment(live, direct.tools(scenario, version), **mutation)
    assert await client_checks(scenario, version, told) != without


async def test_a_server_that_asks_for_a_token_is_no_news_for_the_client(
    live: Running, tmp_path: Path
) -> None:
    tools, told = tmp_path / "tools.json", tmp_path / "told.json"
    tools.write_text(json.dumps([{"name": "test-tool", "inputSchema": {"type": "object"}}]))
    environ = environment(live, tools, CONFORMANCE_TOLD=str(told))
    found = await client_checks("auth/metadata-default", NEW, environ)
    # Each is something that a client would have done with what the server's 401 says.
    assert {status for _, _, status in found} == {"FAILURE"}
    error = json.loads(told.read_bytes())
    assert (error["code"], error["data"]["reason_code"]) == (-31006, "upstream_auth")
    assert "oauth" not in json.dumps(error).lower()
