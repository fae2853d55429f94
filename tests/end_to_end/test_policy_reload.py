"""Policies that change, and break, while agents call: a real gateway, a real OPA, a real load."""

import asyncio
import hashlib
import io
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from gateway.registry.core import Actor
from gateway.registry.keys import NewKey, create
from gateway.values import ProjectId
from tests.builders import SECRET, World, a_body, a_state
from tests.end_to_end.demonstration import environment, need_opa
from tests.end_to_end.test_sigkill import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

CALLERS = 4
SECONDS = 200
PAUSE = 0.01
"""Between a caller's calls: policies are tried below everything that answers calls, and callers
that never rest would leave a small machine no time for it."""
ROOT = Path(__file__).parents[2]
SERVE = """
import json, sys
from pathlib import Path
import tests.without_templates
from gateway.app import serve
from gateway.settings import LOOPBACK_NETWORKS, Settings
from gateway.telemetry.logs import log_to_stderr

log_to_stderr("error")
settings = Settings.read(
    data_dir=Path(sys.argv[1]), policy_dirs=(Path(sys.argv[2]),),
    port=0, management_port=0, private_upstreams=LOOPBACK_NETWORKS,
)
serve(settings, ready=lambda r: print(json.dumps([r.base_url, r.management_url]), flush=True))
"""
POLICY = """package policies.all.{name}

import rego.v2

findings contains {{"action": "LOG_ONLY", "policy_id": "{id}", "reason": "a test"}}
"""
TEST = """package policies_test.{name}

import rego.v2

import data.policies.all.{name}

test_log_only if {{
	some finding in {name}.findings
	finding.action == "LOG_ONLY"
}}
"""
NO_FINDING = "package policies.all.broken\n\nimport rego.v2\n\n"


@dataclass
class Load:
    """Callers that call one after the other until they are told to stop."""

    refused: list[str] = field(default_factory=list)
    answered: int = 0
    ended: bool = False

    async def call(self, url: str) -> None:
        headers = {
            "Authorization": f"Bearer {SECRET}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
            while not self.ended:
                arguments = {"object": str(self.answered)}
                answer = await client.post(url, content=a_body(arguments=arguments))
                if "error" in answer.json():
                    self.refused.append(answer.text)
                self.answered += 1
                await asyncio.sleep(PAUSE)


@dataclass
class Gateway:
    """A gateway that runs, its policy folder, and an auditor who looks at it."""

    api: httpx.AsyncClient
    management_url: str
    policies: Path

    async def status(self) -> dict[str, Any]:
        answer = await self.api.get("/policy/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            while not true(status := await self.status()):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.02)
        return status

    async def digest(self) -> str:
        return str((await self.status())["active"]["digest"])

    def write(self, name: str, text: str) -> None:
        path = self.policies / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    need_opa()
    policy(tmp_path / "policies", "a", "a.1")
    policy(tmp_path / "policies", "b", "b.1")
    return tmp_path / "data"


def policy(folder: Path, name: str, policy_id: str) -> None:
    path = folder / f"all/{name}"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{name}.rego").write_text(POLICY.format(name=name, id=policy_id))
    (path / f"{name}_test.rego").write_text(TEST.format(name=name))


@asynccontextmanager
async def a_gateway(data_dir: Path) -> AsyncIterator[tuple[Gateway, Load]]:
    """It is under load for as long as the block runs, and no call may have been refused."""
    upstream, load = Upstream(), Load()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    with a_state(data_dir) as world:
        world.set("servers", "srv_1", server_url=f"http://127.0.0.1:{_port(server)}/mcp")
        auditor = _auditor(world)
    policies = data_dir.parent / "policies"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE, str(data_dir), str(policies)),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    callers: list[asyncio.Task[None]] = []
    try:
        line = await asyncio.wait_for(process.stdout.readline(), SECONDS)
        assert line, "the gateway did not start; its log says why"
        base, management = orjson.loads(line)
        callers = [
            asyncio.create_task(load.call(f"{base}/api/v1/mcp/proxy/srv_1")) for _ in range(CALLERS)
        ]
        headers = {"Authorization": f"Bearer {auditor}"}
        async with httpx.AsyncClient(
            base_url=f"{base}/api/v1", headers=headers, timeout=30, trust_env=False
        ) as api:
            gateway = Gateway(api, management, policies)
            await gateway.until(lambda status: status["active"] is not None)
            yield gateway, load
        load.ended = True
        await asyncio.gather(*callers)
    finally:
        for caller in callers:  # their faults would hide the one that ended the block
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        if process.returncode is None:
            process.terminate()
        await process.wait()
        server.close()
    assert load.refused == []
    assert load.answered >= CALLERS


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def _auditor(world: World) -> str:
    new = NewKey.model_validate({"role": "auditor", "name": "audit", "owner": "Ada"})
    by = Actor.operator(ProjectId("prj_1"))
    return world.state.registry.change_now(by, lambda change: create(change, new))[1]


BREAKAGES = {
    "parse": (NO_FINDING + "x :=\n", "rego_parse_error"),
    "type": (NO_FINDING + 'x := 1 + "a"\n', "rego_type_error"),
    "strict": (NO_FINDING + "import data.lib\n", "unused"),
    "schema": (
        "# METADATA\n# schemas:\n#   - input: schema.input\n"
        + NO_FINDING
        + "x if input.tool.nmae\n",
        "undefined ref: input.tool.nmae",
    ),
    "capability": (NO_FINDING + 'x := http.send({"url": "http://x"})\n', "undefined function"),
    "conflict": (
        NO_FINDING + 'findings := {"a"}\n\nfindings := {"b"} if is_object(input)\n',
        "conflict",
    ),
    "hijack": ("package gateway\n\nimport rego.v2\n\ndecision := 1\n", "outside policies"),
    "foreign root": ("package connectors.salesforce.x\n\nx := 1\n", "outside policies"),
}


async def test_nothing_that_is_broken_becomes_active_while_calls_run(data_dir: Path) -> None:
    async with a_gateway(data_dir) as (gateway, _):
        good = await gateway.digest()
        for kind, (text, reason) in BREAKAGES.items():
            gateway.write("all/broken/broken.rego", text)
            await _is_refused(gateway, good, "broken.rego", reason, kind)
            (gateway.policies / "all/broken/broken.rego").unlink()
            await gateway.until(lambda s: s["last_failure"]["resolved_at"] is not None)

        gateway.write(
            "all/a/a.rego", POLICY.format(name="a", id="a.1").replace("LOG_ONLY", "ALLOW")
        )
        await _is_refused(gateway, good, "a_test.rego", "test_log_only fails", "test")
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{gateway.management_url}/readyz")
        assert answer.status_code == 200
        assert "a_test.rego:7" in answer.json()["checks"]["policy"]
        gateway.write("all/a/a.rego", POLICY.format(name="a", id="a.1"))
        await gateway.until(lambda s: s["last_failure"]["resolved_at"] is not None)

        gateway.write("all/a/data.json", '{"findings": {}}')  # loads nowhere: a rule says so too
        await _is_refused(gateway, good, "a.rego", "conflicting rule", "unloadable")
        (gateway.policies / "all/a/data.json").unlink()
        await gateway.until(lambda s: s["last_failure"]["resolved_at"] is not None)

        (gateway.policies / "keys.rego").symlink_to(data_dir / "keys" / "data.key")
        await _is_refused(gateway, good, "keys.rego", "link that leaves", "link")
    with a_state(data_dir) as world:
        decisions = world.records(kind="decision")
        assert {record["policy"] for record in decisions} == {good}
        assert {tuple(record["rules"]) for record in decisions} == {("a.1", "b.1")}
        events = [record["event"] for record in world.records(kind="event")]
        assert events.count("policy_change.activated") == 1
        assert "policy_change.refused" in events
        world.check_log()


async def _is_refused(gateway: Gateway, good: str, file: str, reason: str, kind: str) -> None:
    status = await gateway.until(
        lambda s: s["last_failure"] is not None and s["last_failure"]["resolved_at"] is None
    )
    failure = status["last_failure"]
    assert reason in failure["reason"], kind
    assert failure["file"].endswith(f"/{file}"), (kind, failure)
    assert (failure["line"] > 0) == (kind != "link"), kind
    assert failure["deciding"] == status["active"]["digest"] == good, kind


async def test_each_call_is_decided_by_one_whole_policy_while_many_follow(data_dir: Path) -> None:
    async with a_gateway(data_dir) as (gateway, _):
        digests = [await gateway.digest()]
        for version in range(2, 7):
            for name in ("a", "b"):
                gateway.write(f"all/{name}/{name}.rego", _version(name, version))
            status = await gateway.until(
                lambda s: s["active"]["digest"] not in digests and s["building_since"] is None
            )
            digests.append(status["active"]["digest"])
        for digest in digests:
            answer = await gateway.api.get(f"/policy/bundles/{digest}")
            assert answer.headers["content-type"] == "application/vnd.openpolicyagent.bundles"
            assert f"sha256:{hashlib.sha256(answer.content).hexdigest()}" == digest
        for missing in ("sha256:" + "0" * 64, "last-good.json"):
            assert (await gateway.api.get(f"/policy/bundles/{missing}")).status_code == 404
        contents = {d: await _policy_ids(gateway, d) for d in digests}
    with a_state(data_dir) as world:
        decisions = world.records(kind="decision")
        assert {record["policy"] for record in decisions} >= {digests[0], digests[-1]}
        for record in decisions:
            if record["policy"] in contents:
                assert tuple(record["rules"]) == contents[record["policy"]]


def _version(name: str, version: int) -> str:
    return POLICY.format(name=name, id=f"{name}.{version}")


async def _policy_ids(gateway: Gateway, digest: str) -> tuple[str, ...]:
    archive = (await gateway.api.get(f"/policy/bundles/{digest}")).content
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = []
        for name in ("a", "b"):
            file = tar.extractfile(f"/organisation/1/all/{name}/{name}.rego")
            assert file is not None
            found.append(file.read().decode().split('"policy_id": "')[1].split('"')[0])
    return tuple(found)


async def test_a_gateway_started_with_broken_sources_serves_the_last_good_policy(
    data_dir: Path,
) -> None:
    async with a_gateway(data_dir) as (gateway, _):
        good = await gateway.digest()
    gateway.write("all/a/a.rego", "package policies.all.a\n\nfindings :=\n")
    async with a_gateway(data_dir) as (gateway, _):
        await _is_refused(gateway, good, "a.rego", "rego_parse_error", "restart")
    with a_state(data_dir) as world:
        assert {record["policy"] for record in world.records(kind="decision")} == {good}


async def test_two_thousand_policies_reload_under_load_without_a_refusal(data_dir: Path) -> None:
    for n in range(2000):
        path = data_dir.parent / f"policies/tool/t{n}"
        path.mkdir(parents=True)
        text = POLICY.format(name="x", id=f"t{n}").replace(
            "policies.all.x", f"policies.tool.t{n}.x"
        )
        (path / "x.rego").write_text(text)
    async with a_gateway(data_dir) as (gateway, _):
        for version in (2, 3):
            before = await gateway.digest()
            gateway.write("all/a/a.rego", _version("a", version))
            async with asyncio.timeout(SECONDS):
                while await gateway.digest() == before:  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.02)
