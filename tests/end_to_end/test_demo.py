"""`gateway demo`, as its users meet it: a real client, real OPA, real processes."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from gateway.demo.instructions import Demo, as_text
from tests.conftest import needs
from tests.end_to_end.demonstration import Running, descendants, ends, need_opa, running, start

pytestmark = pytest.mark.anyio

README = Path(__file__).parents[2] / "README.md"
MODES = ("auto", "legacy", "2026-07-28")
TOOLS = {
    *("query_records", "create_record", "update_record", "delete_record"),
    *("send_email", "bulk_export", "slow_report", "stream_records"),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    need_opa()
    with running(tmp_path_factory.mktemp("a folder") / "demo") as it:
        yield it


@pytest.fixture
def demo(live: Running) -> Demo:
    return live.demo


@asynccontextmanager
async def client(demo: Demo, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {demo.project_key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http,
        Client(streamable_http_client(demo.proxy_url, http_client=http), mode=mode) as it,
    ):
        yield it


def api(demo: Demo, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"{demo.base_url}/api/v1",
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
        trust_env=False,
    )


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_lists_and_calls_what_is_allowed(demo: Demo, mode: str) -> None:
    async with client(demo, mode) as mcp:
        listed = {tool.name for tool in (await mcp.list_tools()).tools}
        assert listed == TOOLS - {"bulk_export"}  # a rule denies it: it is not offered either
        answer = await mcp.call_tool("query_records", {"object_name": "Account", "limit": 1})
        assert answer.is_error is False
        assert answer.structured_content is not None
        assert answer.structured_content["total"] == 5


@pytest.mark.parametrize("mode", MODES)
async def test_progress_arrives_before_the_result(demo: Demo, mode: str) -> None:
    told: list[float] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append(time.monotonic())

    async with client(demo, mode) as mcp:
        arguments = {"steps": 3, "seconds_per_step": 0.5}
        await mcp.call_tool("slow_report", arguments, progress_callback=heard)
        answered = time.monotonic()
    assert len(told) == 3
    # A proxy that held the stream back would hand all over together; of a second, a busy machine
    # may take most.
    assert answered - told[0] > 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("bulk_export", {"object_name": "Account"}, -31003),
        ("send_email", {"to": ["a@b.example"], "subject": "s", "body": "b"}, -31004),
    ],
)
async def test_a_client_sees_a_refusal_as_an_error_with_its_code(
    demo: Demo, mode: str, tool: str, arguments: dict[str, Any], code: int
) -> None:
    async with client(demo, mode) as mcp:
        with pytest.raises(MCPError) as refused:
            await mcp.call_tool(tool, arguments)
    assert refused.value.error.code == code
    assert refused.value.error.data["trace_id"].startswith("trc_")


async def test_an_approved_call_passes_exactly_once(demo: Demo) -> None:
    arguments = {"record_id": "OPP-0003"}
    async with client(demo) as mcp:
        with pytest.raises(MCPError) as asked:
            await mcp.call_tool("delete_record", arguments)
        approval = asked.value.error.data["approval_id"]
        with api(demo, demo.approver_key) as approver:
            decided = approver.post(f"/approvals/{approval}/approve", json={"reason": "a test"})
            assert decided.status_code == 200, decided.text
        assert (await mcp.call_tool("delete_record", arguments)).is_error is False
        with pytest.raises(MCPError) as again:
            await mcp.call_tool("delete_record", arguments)
    assert again.value.error.code == -31004
    assert again.value.error.data["approval_id"] != approval


def test_the_auditor_reads_what_was_decided(demo: Demo) -> None:
    with api(demo, demo.project_key) as agent:
        body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
        params = {"name": "bulk_export", "arguments": {"object_name": "Contact"}}
        accept = {"Accept": "application/json, text/event-stream"}
        refused = agent.post(demo.proxy_url, json={**body, "params": params}, headers=accept)
    assert refused.status_code == 200
    trace_id = refused.json()["error"]["data"]["trace_id"]
    with api(demo, demo.auditor_key) as auditor:
        found = auditor.get(f"/traces/{trace_id}")
    assert found.status_code == 200, found.text


def test_the_lines_in_the_readme_do_what_they_say(demo: Demo) -> None:
    block = re.search(r"With these in.*?```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    printed = shell(
        block[1],
        URL=demo.proxy_url,
        KEY=demo.project_key,
        APPROVER_KEY=demo.approver_key,
    )
    assert [line for line in block[1].splitlines() if line.startswith("call ")] != []
    assert '"total":5' in printed
    assert '"code":-31003' in printed
    assert '"code":-31004' in printed
    assert '"status":"PENDING"' in printed


def test_what_the_demonstration_prints_works_when_pasted(demo: Demo) -> None:
    text = as_text(demo)
    pasted = text[text.index("call() {") : text.index("Claude Code:")]
    printed = shell(pasted)
    assert '"total":5' in printed
    assert '"code":-31003' in printed
    assert '"code":-31004' in printed
    cursor = re.search(r"^\{.*\}$", text, re.MULTILINE)
    assert cursor is not None
    assert json.loads(cursor[0])["mcpServers"]["crm"]["url"] == demo.proxy_url


def shell(lines: str, **variables: str) -> str:
    needs("curl", "apt-get install curl")
    bash = needs("bash", "apt-get install bash")
    done = subprocess.run(
        [bash, "-eu", "-c", lines],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keys_are_for_their_owners_eyes_only(demo: Demo) -> None:
    assert (Path(demo.data_dir) / "demo.json").stat().st_mode & 0o777 == 0o600


def test_a_second_demonstration_on_the_same_data_says_so(demo: Demo) -> None:
    second = start(Path(demo.data_dir), "--port", "0")
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (1, "")
    assert "is in use by another gateway" in err
    assert "Traceback" not in err


def test_a_taken_port_says_so(tmp_path: Path) -> None:
    need_opa()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start(tmp_path / "demo", "--port", port)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert port in err
    assert "Traceback" not in err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_its_end_is_the_end_of_all_that_it_started(tmp_path: Path, how: signal.Signals) -> None:
    need_opa()
    with running(tmp_path / "demo") as it:
        below = descendants(it.process.pid)
        assert len(below) >= 2, "the sample server and OPA"
        watched = [os.pidfd_open(pid) for pid in below]
        it.process.send_signal(how)
        try:
            assert all(ends(pidfd) for pidfd in watched)
        finally:
            for pidfd in watched:
                os.close(pidfd)
        it.process.wait(timeout=20)
        if how is not signal.SIGKILL:
            assert it.process.returncode == 0


async def test_a_restart_keeps_keys_server_and_rules(tmp_path: Path) -> None:
    need_opa()
    with running(tmp_path / "demo") as first:
        before = first.demo
    with running(tmp_path / "demo") as second:
        after = second.demo
        assert (after.project_key, after.server_id) == (before.project_key, before.server_id)
        with api(after, after.admin_key) as admin:
            assert len(admin.get("/mcp/policies").json()["items"]) == 6
            assert len(admin.get("/mcp/servers").json()["items"]) == 1
        async with client(after) as mcp:
            answer = await mcp.call_tool("query_records", {"object_name": "Contact"})
            assert answer.is_error is False
