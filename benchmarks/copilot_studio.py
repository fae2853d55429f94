"""How late Copilot Studio is answered at a steady rate, with everything on.

    python -m benchmarks.copilot_studio [--rate 200] [--seconds 10] [--json]

A gateway of its own, the Copilot template, a budget, a new event for each request, so that each is
decided, charged and traced. Requests are sent when they are due, whether earlier ones are answered
or not, and the time runs from then. The client shares the cores with the gateway and OPA.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from benchmarks.calls import _post, free_port, process, wait_ready

WARM_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds."""

    rate: int
    requests: int
    p50: float
    p99: float
    longest: float
    wrong: int
    """Answers other than that the call may pass."""


@contextmanager
def endpoint(data_dir: Path) -> Iterator[tuple[str, str]]:
    """The URL of ``analyze-tool-execution`` of a gateway of its own, and its key."""
    home = {**os.environ, "GATEWAY_DATA_DIR": str(data_dir)}
    made = subprocess.run(
        [sys.executable, "-m", "gateway", "init", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=home,
    )
    port = free_port()
    settings = {
        "GATEWAY_DATA_DIR": str(data_dir),
        "GATEWAY_PORT": str(port),
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_LOG_LEVEL": "error",
    }
    base = f"http://127.0.0.1:{port}"
    with process(sys.executable, "-m", "gateway", "serve", **settings):
        wait_ready(base)
        headers = {"Authorization": f"Bearer {json.loads(made.stdout)['admin_key']}"}
        with httpx.Client(
            base_url=f"{base}/api/v1", headers=headers, timeout=30, trust_env=False
        ) as api:
            params = {"internal_domains": ["example.com"]}
            template = {"template": "copilot", "params": params}
            server = _post(api, "/mcp/servers/from-template", template)["id"]
            budget = {"scope": "project", "window": "month", "limit": 1_000_000_000}
            _post(api, "/budgets", budget)
            new = {"name": "bench", "type": "copilot", "server_id": server, "scopes": ["decide"]}
            extension = _post(api, "/extensions", new | {"events_per_minute": 1_000_000})
        yield (
            f"{base}/api/v1/extensions/{extension['id']}/copilot-studio/analyze-tool-execution",
            extension["key"],
        )


def a_request(number: int) -> dict[str, Any]:
    chat = [
        {"id": str(n), "role": "user", "content": "Write to Ann, please. " * 10, "timestamp": "t"}
        for n in range(10)
    ]
    return {
        "plannerContext": {"userMessage": "Write to Ann", "chatHistory": chat},
        "toolDefinition": {
            "id": "cr1_bot.action.Outlook-SendEmail",
            "name": "SendEmail",
            "type": "PrebuiltToolDefinition",
            "description": "Send a mail",
        },
        "inputValues": {"to": ["ann@example.com"], "subject": f"No. {number}"},
        "conversationMetadata": {
            "agent": {"id": f"bot-{number % 5}"},
            "user": {"id": "user-1"},
            "conversationId": f"c-{number % 50}",
            "planStepId": str(number),
        },
    }


async def measure(url: str, key: str, rate: int, seconds: int) -> Result:
    total = rate * (seconds + WARM_SECONDS)
    late: list[float] = []
    wrong = 0
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        begun = time.perf_counter() + 0.1

        async def one(number: int) -> None:
            nonlocal wrong
            due = begun + number / rate
            correlation = {"x-ms-correlation-id": f"bench-{number}"}
            try:
                async with session.post(url, json=a_request(number), headers=correlation) as answer:
                    passes = await answer.read() == b'{"blockAction":false}'
            except aiohttp.ClientError:
                passes = False
            if number >= rate * WARM_SECONDS:
                late.append((time.perf_counter() - due) * 1000)
                wrong += not passes

        async with asyncio.TaskGroup() as group:
            for number in range(total):
                await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
                group.create_task(one(number))
    hundredths = statistics.quantiles(late, n=100)
    return Result(rate, len(late), statistics.median(late), hundredths[98], max(late), wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, endpoint(Path(folder) / "data") as (url, key):
        result = asyncio.run(measure(url, key, asked.rate, asked.seconds))
    if asked.json:
        print(json.dumps(asdict(result)))
        return
    print(
        f"Copilot Studio, {result.rate} requests/s:"
        f" p50 {result.p50:.0f} ms, p99 {result.p99:.0f} ms,"
        f" longest {result.longest:.0f} ms; {result.wrong} of {result.requests} not let through"
    )


if __name__ == "__main__":
    main()
