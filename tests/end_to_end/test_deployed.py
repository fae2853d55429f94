"""What `deploy/` starts, started without containers: its commands, environments and probes."""

import asyncio
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from gateway.database_place import PostgresUrl
from gateway.policy import opa_binary
from tests.deploy_files import GATEWAYS, ROOT, pod, services, sidecar
from tests.end_to_end.demonstration import descendants, environment, need_opa
from tests.end_to_end.nginx import free_port, nginx_before
from tests.end_to_end.slow_tool import SlowTool, slow_tool
from tests.end_to_end.two_served import Deployment, Served, a_message, until
from tests.postgresql import Server, a_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

SECONDS = 120
GATEWAY = shlex.join([sys.executable, "-m", "gateway"])
PASSWORD = "correcthorse"
INTERPOLATED = {
    "${POSTGRES_PASSWORD:?set it to letters and digits}": PASSWORD,
    "${PUBLIC_URL:-https://localhost:8443}": "https://localhost:8443",
}


def given(service: Mapping[str, Any], **instead: str) -> dict[str, str]:
    """A service's environment as Compose makes it, but for what this machine has elsewhere."""
    made = dict(service["environment"])
    for name, text in made.items():
        for written, value in INTERPOLATED.items():
            made[name] = text = text.replace(written, value)
        assert "$" not in text
    return {**made, **instead}


class PasswordServer(Server):
    """PostgreSQL as its image starts it: by its environment, with a password, over TCP."""

    def __init__(self, image: Mapping[str, str]) -> None:
        self.image = image
        self.port = free_port()
        super().__init__()
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{image["POSTGRES_DB"]}"'.encode())

    def _url(self, database: str) -> str:
        user, password = self.image["POSTGRES_USER"], self.image["POSTGRES_PASSWORD"]
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> None:
        if program == "initdb":
            secret = self.folder / "password"
            secret.write_text(self.image["POSTGRES_PASSWORD"])
            secret.chmod(0o644)
            arguments = ("--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")
            arguments += tuple(shlex.split(self.image["POSTGRES_INITDB_ARGS"]))
        super()._run(program, *arguments)

    def start(self) -> None:
        options = f"-k {self.folder} -h 127.0.0.1 -p {self.port} -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--timeout=60", "--options", options)


@contextmanager
def postgres() -> Iterator[PasswordServer]:
    service = services()["postgres"]
    server = PasswordServer(given(service))
    try:
        check = service["healthcheck"]["test"]
        assert check[0] == "CMD"
        words = [*check[2:], "--host", "127.0.0.1", "--port", str(server.port)]
        done = subprocess.run([server.programs / check[1], *words], check=False)
        assert done.returncode == 0
        yield server
    finally:
        server.close()


def on_this_machine(folder: Path, **more: str) -> dict[str, str]:
    """What is of this machine, and not of the container's image or file."""
    return {
        **environment(),
        "GATEWAY_DATA_DIR": str(folder),
        "GATEWAY_PORT": "0",
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_PRIVATE_UPSTREAMS": "127.0.0.0/8",
        **more,
    }


async def told(words: list[str], env: Mapping[str, str]) -> str:
    """What a command of the gateway prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *words), env=env, cwd=ROOT, stdout=subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0
    return said.decode()


@asynccontextmanager
async def started(words: list[str], env: Mapping[str, str]) -> AsyncIterator[dict[str, str]]:
    """The gateway as it is started there; yields where it answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *words, "--json"),
        env=env,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), SECONDS)
        yield {**json.loads(line), "pid": str(process.pid)}
        process.terminate()
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def is_healthy(service: Mapping[str, Any], there: Mapping[str, str]) -> None:
    """By the service's own check."""
    check = service["healthcheck"]["test"]
    assert check[:2] == ["CMD", "python"]
    checked = check[-1].replace("http://127.0.0.1:8081", there["management_url"])
    command = [sys.executable, "-c", checked]
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0


async def registered(over: Served, tool: SlowTool) -> None:
    new: Any = {"server_url": tool.url, "allow_private_network": True}
    made = over.deployment
    made.server_id = (await over.told("POST", "/mcp/servers", name="slow", **new))["id"]
    await over.told("PATCH", f"/mcp/servers/{made.server_id}", status="ACTIVE")
    await over.told("POST", "/mcp/policies", server_id=made.server_id, action="ALLOW")
    key = await over.told("POST", "/keys", role="project", name="k", owner="o")
    made.keys["project"] = key["key"]

    async def known() -> bool:
        answers = [await over.post(a_message("ping")) for _ in GATEWAYS]
        return all(answer.status_code not in (401, 404) for answer in answers)

    await until(known)


async def streamed(over: Served, tool: SlowTool) -> None:
    """A call whose first event arrives before its tool has ended."""
    tool.release.clear()
    call = a_message("tools/call", name="report", arguments={"object": "a", "stream": True})
    path = f"/api/v1/mcp/proxy/{over.deployment.server_id}"
    async with over.client("project").stream("POST", path, json=call) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert "begun" in await anext(line async for line in lines if line.startswith("data"))
        tool.release.set()
        assert "done" in await anext(line async for line in lines if line.startswith("data"))


async def test_what_compose_starts_streams_calls_through_nginx_at_both_gateways(
    tmp_path: Path,
) -> None:
    need_opa()
    port, ports = free_port(), [free_port() for _ in GATEWAYS]
    with postgres() as server:
        instead = {"GATEWAY_PUBLIC_URL": f"https://127.0.0.1:{port}"}
        one = services()[GATEWAYS[0]]
        url = given(one)["GATEWAY_DATABASE_URL"]
        assert "@postgres:5432/" in url
        instead["GATEWAY_DATABASE_URL"] = url.replace("@postgres:5432", f"@127.0.0.1:{server.port}")
        instead["GATEWAY_TRUSTED_PROXIES"] = "127.0.0.1/32"
        made = Deployment(tmp_path, PostgresUrl(instead["GATEWAY_DATABASE_URL"]))
        envs = [
            {**given(services()[name], **instead), **on_this_machine(tmp_path / name)}
            for name in GATEWAYS
        ]
        made.keys["admin"] = json.loads(await told(["init", "--json"], envs[0]))["admin_key"]
        # Both mount one volume there.
        (tmp_path / GATEWAYS[1]).mkdir(mode=0o700)
        (tmp_path / GATEWAYS[1] / "keys").symlink_to(tmp_path / GATEWAYS[0] / "keys")
        async with (
            slow_tool() as tool,
            started(one["command"], {**envs[0], "GATEWAY_PORT": str(ports[0])}) as first,
            started(
                services()[GATEWAYS[1]]["command"], {**envs[1], "GATEWAY_PORT": str(ports[1])}
            ) as second,
            nginx_before(tmp_path / "nginx", ports, port) as nginx,
            made.at(nginx.url, nginx.context) as over,
        ):
            await is_healthy(one, first)
            await is_healthy(services()[GATEWAYS[1]], second)
            await registered(over, tool)
            for _ in GATEWAYS:
                await streamed(over, tool)
            calls = [line for line in nginx.log() if "/mcp/proxy/" in line]
            assert {line.rpartition(":")[2] for line in calls} == {str(one) for one in ports}
            assert made.keys["project"] not in "".join(nginx.log())


@asynccontextmanager
async def the_sidecar(shared: Path, management_port: str) -> AsyncIterator[str]:
    """OPA as the pod starts it; yields where its probe looks."""
    opa, port = sidecar(), free_port()
    _, *words = opa["command"]
    words = [word.replace("/run/opa", str(shared)) for word in words]
    words = [word.replace("0.0.0.0:8282", f"127.0.0.1:{port}") for word in words]
    given = {one["name"]: one["value"].replace("/run/opa", str(shared)) for one in opa["env"]}
    given["GATEWAY_BUNDLE_URL"] = given["GATEWAY_BUNDLE_URL"].replace("8081", management_port)
    process = await asyncio.create_subprocess_exec(opa_binary.find(), *words, env=given)
    try:
        yield f"http://127.0.0.1:{port}{opa['livenessProbe']['httpGet']['path']}"
        assert process.returncode is None
    finally:
        process.kill()
        await process.wait()


async def test_what_kubernetes_starts_takes_the_keys_of_all_and_answers_the_probes(
    tmp_path: Path,
) -> None:
    need_opa()
    init, [container] = pod()["initContainers"][0], pod()["containers"]
    with a_database() as place:
        known = {"database-url": str(place)}
        given = {
            one["name"]: one.get("value") or known[one["valueFrom"]["secretKeyRef"]["key"]]
            for one in container["env"]
        }
        elsewhere = {**environment(), "GATEWAY_DATABASE_URL": str(place)}
        made = Deployment(tmp_path, place)
        words = ["init", "--json", "--data-dir", str(tmp_path / "first")]
        made.keys["admin"] = json.loads(await told(words, elsewhere))["admin_key"]
        secret, volume = tmp_path / "secret", tmp_path / "volume"
        shutil.copytree(tmp_path / "first" / "keys", secret)
        for path in secret.iterdir():
            path.chmod(0o440)
        shared = tmp_path / "shared"
        script = init["args"][0].replace("/var/lib/gateway", str(volume))
        script = script.replace("/run/opa", str(shared)).replace("gateway opa", f"{GATEWAY} opa")
        here = on_this_machine(volume / "data", GATEWAY_MANAGEMENT_PORT=str(free_port()))
        for _ in range(2):  # a pod that is made anew finds its volume as it was
            copied = [*init["command"], script.replace("/keys/*", f"{secret}/*")]
            await asyncio.to_thread(subprocess.run, copied, check=True, env=here, cwd=ROOT)
        env = {**given, **here, "GATEWAY_OPA_URL": f"unix://{shared}/own/opa.sock"}
        async with (
            the_sidecar(shared, here["GATEWAY_MANAGEMENT_PORT"]) as health,
            started(container["args"], env) as there,
            httpx.AsyncClient(base_url=there["management_url"], trust_env=False) as kubelet,
            made.at(there["base_url"]) as over,
        ):
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container[name]["httpGet"]
                headers = {header["name"]: header["value"] for header in probe["httpHeaders"]}
                answer = await kubelet.get(probe["path"], headers=headers)
                assert (probe["port"], answer.status_code) == ("management", 200), answer.text
            assert (await over.told("GET", "/projects/current"))["name"] == "Default"
            assert (await kubelet.get(health)).status_code == 200
            assert descendants(int(there["pid"])) == []  # it runs no OPA of its own
