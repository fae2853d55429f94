"""What `deploy/` holds is what the gateway takes; where no container runs, its commands do."""

import asyncio
import json
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.policy.opa_binary import OPA_VERSION
from gateway.settings import Settings
from tests.certificates import a_certificate
from tests.conftest import needs
from tests.end_to_end.demonstration import environment, need_opa
from tests.end_to_end.slow_tool import slow_tool
from tests.test_cli import gateway

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
pytestmark = pytest.mark.anyio

GET_NGINX = "on Debian: apt-get install nginx"
ADMIN_KEY = "gwa_" + "d" * 40
SECONDS = 120


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def compose() -> dict[str, Any]:
    [document] = documents(DEPLOY / "compose.yaml")
    return document


def manifest(kind: str) -> dict[str, Any]:
    found = [d for f in DEPLOY.glob("kubernetes/*.yaml") for d in documents(f)]
    [one] = [document for document in found if document["kind"] == kind]
    return one


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("StatefulSet")["spec"]["template"]["spec"]
    return spec


def instructions(word: str) -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{word} (.*)$", text, re.M)


def start_commands() -> Iterator[list[str]]:
    yield compose()["services"]["gateway"]["command"]
    yield from (one["args"] for one in (*pod()["initContainers"], *pod()["containers"]))
    yield from (json.loads(words) for words in instructions("CMD"))
    unit = (DEPLOY / "policy-gateway.service").read_text()
    yield from (shlex.split(line)[1:] for line in re.findall(r"^ExecStart=(.*)$", unit, re.M))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_a_file_names_exists(path: Path) -> None:
    known = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", path.read_text())) <= known


@pytest.mark.parametrize("words", list(start_commands()), ids=" ".join)
def test_every_command_and_option_that_is_started_exists(words: list[str]) -> None:
    assert gateway(*words, "--help").exit_code == 0


def test_the_image_copies_what_is_there_and_what_is_not_kept_out_of_the_build() -> None:
    own = [words.split() for words in instructions("COPY") if not words.startswith("--from")]
    copied = {name for *names, _ in own for name in names}
    assert all((ROOT / name).exists() for name in copied)
    let_in = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert copied == set(let_in)


def test_the_image_holds_the_pinned_opa_and_runs_as_nobody_in_particular() -> None:
    assert f"openpolicyagent/opa:{OPA_VERSION}-static AS opa" in instructions("FROM")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instructions("USER")[-1])
    opa = re.search(r"GATEWAY_OPA_BIN=(\S+)", instructions("ENV")[-1])
    assert opa is not None
    assert f"--from=opa /opa {opa[1]}" in instructions("COPY")
    assert any("--require-hashes" in words for words in instructions("RUN"))


def test_what_is_written_lies_in_a_volume_and_the_root_is_read_only() -> None:
    [volume] = instructions("VOLUME")
    for name in ("GATEWAY_DATA_DIR", "GATEWAY_TOOLS_DIR"):
        assert f"{name}={volume}/" in instructions("ENV")[-1]
    service = compose()["services"]["gateway"]
    assert service["read_only"] is True
    assert service["volumes"] == [f"data:{volume}"]
    for one in (*pod()["initContainers"], *pod()["containers"]):
        assert {"name": "data", "mountPath": volume} in one["volumeMounts"]
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod()["securityContext"]["runAsNonRoot"] is True


def test_the_manifests_belong_together() -> None:
    folder = DEPLOY / "kubernetes"
    [kustomization] = documents(folder / "kustomization.yaml")
    there = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    # A data directory belongs to one process.
    assert manifest("StatefulSet")["spec"]["replicas"] == 1
    images = {one["image"] for one in (*pod()["initContainers"], *pod()["containers"])}
    assert images == {compose()["services"]["gateway"]["image"]}
    ports = {port["name"]: port["containerPort"] for port in pod()["containers"][0]["ports"]}
    assert ports == {
        "http": Settings.model_fields["port"].default,
        "management": Settings.model_fields["management_port"].default,
    }


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze", "on Debian: apt-get install systemd")
    unit = tmp_path / "policy-gateway.service"
    text = (DEPLOY / unit.name).read_text()
    program = tmp_path / "gateway"  # no blank in its path, which a checkout's may have
    program.symlink_to(sys.executable)
    unit.write_text(text.replace("/opt/policy-gateway/bin/gateway", str(program)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert line in text.splitlines()


def nginx_files(folder: Path, upstream: int, port: int) -> Path:
    """deploy/nginx.conf with its ports, names and folders of this machine."""
    folder.mkdir()
    a_certificate(folder / "tls.pem")
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("server gateway:8080", f"server 127.0.0.1:{upstream}"),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/tls/tls.crt", f"{folder}/tls.pem"),
        ("/etc/nginx/tls/tls.key", f"{folder}/tls.pem"),
        ("/tmp/nginx", f"{folder}/nginx"),
        ("worker_processes auto", "worker_processes 1"),
        ("worker_rlimit_nofile 65536;", ""),
        ("worker_connections 16384", "worker_connections 128"),
        ("/dev/stdout", f"{folder}/access.log"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    nginx = needs("nginx", GET_NGINX)
    path = nginx_files(tmp_path / "nginx", 8080, 8443)
    done = subprocess.run([nginx, "-t", "-c", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def on_this_machine(settings: dict[str, str], folder: Path, **more: str) -> dict[str, str]:
    """The environment of a container, with folders and ports of this machine."""
    own = {
        "GATEWAY_DATA_DIR": str(folder / "data"),
        "GATEWAY_PORT": "0",
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_PRIVATE_UPSTREAMS": "127.0.0.0/8",
        "GATEWAY_ADMIN_KEY": ADMIN_KEY,
    }
    return {**environment(), **settings, **own, **more}


def run(words: list[str], env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "gateway", *words]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ADMIN_KEY not in done.stdout + done.stderr


@asynccontextmanager
async def started(words: list[str], env: dict[str, str]) -> AsyncIterator[dict[str, str]]:
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
        yield json.loads(line)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def behind_nginx(folder: Path, upstream: int, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """An administrator's client of nginx, which runs with deploy/nginx.conf."""
    nginx = needs("nginx", GET_NGINX)
    path = nginx_files(folder, upstream, port)
    process = await asyncio.create_subprocess_exec(nginx, "-c", path, "-g", "daemon off;")
    url = f"https://127.0.0.1:{port}"
    headers = {
        "Authorization": f"Bearer {ADMIN_KEY}",
        "Accept": "application/json, text/event-stream",
    }
    context = ssl.create_default_context(cafile=str(folder / "tls.pem"))
    try:
        async with asyncio.timeout(SECONDS):
            while not await _listens(port):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, verify=context, trust_env=False, timeout=SECONDS
        ) as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def posted(client: httpx.AsyncClient, path: str, body: object = None) -> dict[str, Any]:
    answer = await client.post(f"/api/v1/{path}", json=body)
    assert answer.is_success, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_what_compose_starts_streams_calls_through_nginx_as_they_come(
    tmp_path: Path,
) -> None:
    need_opa()
    service = compose()["services"]["gateway"]
    port = free_port()
    given = service["environment"]
    assert given["GATEWAY_PUBLIC_URL"].startswith("${PUBLIC_URL:-https://")
    env = on_this_machine(given, tmp_path, GATEWAY_PUBLIC_URL=f"https://127.0.0.1:{port}")
    run(["init"], env)
    async with (
        slow_tool() as tool,
        started(service["command"], env) as there,
        behind_nginx(tmp_path / "nginx", httpx.URL(there["base_url"]).port or 0, port) as client,
    ):
        healthy = service["healthcheck"]["test"]
        assert healthy[:2] == ["CMD", "python"]
        checked = healthy[-1].replace("http://127.0.0.1:8081", there["management_url"])
        command = [sys.executable, "-c", checked]
        assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0

        new = {"name": "slow", "server_url": tool.url, "allow_private_network": True}
        server = (await posted(client, "mcp/servers", new))["id"]
        assert (
            await client.patch(f"/api/v1/mcp/servers/{server}", json={"status": "ACTIVE"})
        ).is_success
        await posted(client, "mcp/policies", {"server_id": server, "action": "ALLOW"})
        key = await posted(client, "keys", {"role": "project", "name": "k", "owner": "o"})
        call = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "report", "arguments": {"object": "a", "stream": True}},
        }
        async with client.stream(
            "POST",
            f"/api/v1/mcp/proxy/{server}",
            json=call,
            headers={"Authorization": f"Bearer {key['key']}"},
        ) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            # The tool has not ended: this event has passed nginx alone.
            assert "begun" in await anext(line async for line in lines if line.startswith("data"))
            tool.release.set()
            assert "done" in await anext(line async for line in lines if line.startswith("data"))
        log = (tmp_path / "nginx" / "access.log").read_text()
        assert f"/api/v1/mcp/proxy/{server}" in log
        assert key["key"] not in log


async def test_what_kubernetes_starts_begins_once_and_answers_the_probes(tmp_path: Path) -> None:
    need_opa()
    [init], [container] = pod()["initContainers"], pod()["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    env = on_this_machine(given, tmp_path)
    for _ in range(2):  # a pod that is made anew finds its volume as it was
        run(init["args"], env)
    async with (
        started(container["args"], env) as there,
        httpx.AsyncClient(base_url=there["management_url"], trust_env=False) as kubelet,
    ):
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[name]["httpGet"]
            headers = {header["name"]: header["value"] for header in probe["httpHeaders"]}
            answer = await kubelet.get(probe["path"], headers=headers)
            assert (probe["port"], answer.status_code) == ("management", 200), answer.text
