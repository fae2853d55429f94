"""The emergency stop with everything real: a running stream, a hung OPA, a restart, a shell."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.database_place import Place
from gateway.demo.instructions import Demo
from tests.end_to_end.demonstration import descendants, environment, need_opa, running

pytestmark = pytest.mark.anyio

SECONDS = 120
"""For anything at all on a busy machine."""


def message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def client(demo: Demo) -> httpx.AsyncClient:
    headers = {
        "Authorization": f"Bearer {demo.project_key}",
        "Accept": "application/json, text/event-stream",
    }
    return httpx.AsyncClient(headers=headers, timeout=SECONDS, trust_env=False)


def told(body: str) -> dict[str, Any]:
    """The last JSON-RPC message of a plain answer or of a stream."""
    lines = [line.removeprefix("data:") for line in body.splitlines() if line.strip()]
    document: dict[str, Any] = json.loads([line for line in lines if "jsonrpc" in line][-1])
    return document


async def code(demo: Demo, method: str, **params: Any) -> int | None:
    """The error's code, or None for a call that passed."""
    async with client(demo) as http:
        answer = await http.post(demo.proxy_url, json=message(method, **params))
    error = told(answer.text).get("error")
    return None if error is None else int(error["code"])


async def query(demo: Demo) -> int | None:
    arguments = {"object_name": "Account", "limit": 1}
    return await code(demo, "tools/call", name="query_records", arguments=arguments)


async def gateway(demo: Demo, *words: str) -> dict[str, Any]:
    """The command line, as an operator runs it."""
    env = environment()
    env |= {"POLICY_GATEWAY_URL": demo.base_url, "POLICY_GATEWAY_KEY": demo.admin_key}
    command = [sys.executable, "-m", "gateway", *words, "--json"]
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode == 0
    answer: dict[str, Any] = json.loads(out)
    return answer


async def refused(demo: Demo, tool: str) -> list[str]:
    """Why calls of a tool were, as the trace has it."""
    key = {"Authorization": f"Bearer {demo.auditor_key}"}
    async with httpx.AsyncClient(headers=key, timeout=SECONDS, trust_env=False) as http:
        found = await http.get(f"{demo.base_url}/api/v1/traces", params={"tool": tool})
    return [row["reason_code"] for row in found.json()["items"]]


def the_opa(pid: int) -> int:
    [opa] = [
        child
        for child in descendants(pid)
        if Path(f"/proc/{child}/comm").read_text().strip() == "opa"
    ]
    return opa


async def test_a_stop_ends_streams_needs_no_opa_and_outlives_the_gateway(
    tmp_path: Path, place: Place
) -> None:
    need_opa()
    settings = {"GATEWAY_DATABASE_URL": place} if isinstance(place, str) else {}
    with running(tmp_path / "demo", settings=settings) as it:
        demo = it.demo
        assert await query(demo) is None
        assert await code(demo, "tools/call", name="query_records\0", arguments={}) == -31002
        assert await refused(demo, "query_records\ufffd") == ["unknown_tool"]
        streaming = asyncio.Event()

        async def stream() -> str:
            arguments = {"steps": 50, "seconds_per_step": 5}
            params = {"name": "slow_report", "arguments": arguments, "_meta": {"progressToken": 1}}
            body = ""
            async with client(demo) as http:
                asked = message("tools/call", **params)
                async with http.stream("POST", demo.proxy_url, json=asked) as answer:
                    async for text in answer.aiter_text():
                        body += text
                        streaming.set()
            return body

        running_call = asyncio.create_task(stream())
        await asyncio.wait_for(streaming.wait(), SECONDS)
        opa = the_opa(it.process.pid)
        os.kill(opa, signal.SIGSTOP)
        try:
            raised = await gateway(demo, "stop", "--all", "--reason", "a drill")
            assert raised["cancelled_calls"] >= 1
            cut = told(await asyncio.wait_for(running_call, SECONDS))
            assert cut["error"]["code"] == -31001
            assert await query(demo) == -31001
            assert await code(demo, "tools/list") == -31001
        finally:
            with contextlib.suppress(
                ProcessLookupError
            ):  # it hung for so long that it was replaced
                os.kill(opa, signal.SIGCONT)
    with running(tmp_path / "demo", settings=settings) as it:
        demo = it.demo
        assert await query(demo) == -31001
        lifted = await gateway(demo, "stop", "--lift", raised["id"], "--reason", "over")
        assert lifted["lift_reason"] == "over"
        assert await query(demo) is None


async def test_the_stop_without_the_api_holds_for_calls_and_is_lifted(tmp_path: Path) -> None:
    need_opa()
    with running(tmp_path / "demo") as it:
        demo = it.demo
        where = ("--data-dir", demo.data_dir)
        assert await query(demo) is None
        await gateway(demo, "stop", "--all-projects", "--reason", "a fire", *where)
        assert await query(demo) == -31001
        await gateway(demo, "stop", "--lift", "stp_file", "--reason", "out", *where)
        refused = 1
        async with asyncio.timeout(SECONDS):
            # The gateway looks at the file by and by: the lift is in force when it has seen it.
            while (answer := await query(demo)) is not None:
                assert answer == -31001
                refused += 1
                await asyncio.sleep(0.05)
        key = {"Authorization": f"Bearer {demo.auditor_key}"}
        async with httpx.AsyncClient(headers=key, timeout=SECONDS, trust_env=False) as http:
            traces = (await http.get(f"{demo.base_url}/api/v1/traces?limit=100")).json()["items"]
        assert sum(row["reason_code"] == "emergency_stop" for row in traces) == refused
