"""Callers, and what must hold once a fault is over."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType

import httpx
import orjson

from gateway.database_place import Place
from tests.builders import SECRET, a_body, a_state
from tests.end_to_end.test_sigkill import inputs
from tests.gateway_process import GatewayProcess

SECONDS = 120
PASSED = "passed"


def prepare(data_dir: Path, upstream_url: str, place: Place | None = None) -> str:
    """A data directory whose one server is the upstream; returns the id of its budget."""
    with a_state(data_dir, place) as world:
        world.set("servers", "srv_1", server_url=upstream_url)
        return world.add_budget(10**9)


@dataclass
class Line:
    """Calls to the gateway, each with a name of its own, and what became of them."""

    gateway: GatewayProcess
    told: dict[str, str] = field(default_factory=dict)
    number: int = 0
    _client: httpx.AsyncClient = field(
        default_factory=lambda: httpx.AsyncClient(
            headers={
                "Authorization": f"Bearer {SECRET}",
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
            },
            timeout=SECONDS,
            limits=httpx.Limits(max_connections=100),
            trust_env=False,
        )
    )

    async def __aenter__(self) -> "Line":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def call(self, behaviour: str = "ok") -> str:
        """`passed`, or the error's code and reason, or what the connection came to."""
        self.number += 1
        rpc_id = self.number
        name = f"{behaviour}-{rpc_id}-{id(self)}"
        body = a_body(arguments={"object": name}, rpc_id=rpc_id)
        try:
            answer = await self._client.post(self.gateway.proxy_url, content=body)
        except httpx.TransportError as fault:
            self.told[name] = type(fault).__name__
        else:
            self.told[name] = _said(answer, rpc_id)
        return self.told[name]

    async def until(self, said: str = PASSED) -> None:
        """Call until it is answered so; a breath apart, as recovery takes time and not calls."""
        due = monotonic() + SECONDS
        while monotonic() < due:
            if await self.call() == said:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never {said}: {Counter(self.told.values())}")


def _said(answer: httpx.Response, rpc_id: int) -> str:
    lines = answer.text.splitlines()
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        lines = [line.removeprefix("data:") for line in lines if line.startswith("data:")]
    try:
        message = orjson.loads(lines[-1])
    except (ValueError, IndexError):
        return f"HTTP {answer.status_code}"
    if "error" in message:
        error = message["error"]
        return f"{error['code']} {error.get('data', {}).get('reason_code', '')}".strip()
    # Another call's answer is the one thing that must never come.
    assert message["id"] == rpc_id, answer.text
    return PASSED


def check(
    data_dir: Path, seen: list[str], budget: str, place: Place | None = None
) -> dict[str, str]:
    """What must hold whatever failed; returns each call's fate by its name."""
    with a_state(data_dir, place) as world:  # as a restart: what was left open is settled
        world.check_log()
        decided = inputs(world)
        records = world.records(kind="decision")
        decisions = {record["id"] for record in records if record["effect"] == "forward"}
        outcomes = {record["call"]: record["fate"] for record in world.records(kind="outcome")}
        names = {decided[call_id]: call_id for call_id in decisions}
        assert max(Counter(seen).values(), default=0) <= 1  # what is sent is sent once
        assert set(seen) <= names.keys()  # and was decided before
        assert outcomes.keys() == decisions
        assert world.open_calls() == []
        charged = sum(fate != "not_forwarded" for fate in outcomes.values())
        assert world.window(budget) == (charged, 0)
        assert {names[name] for name in seen} <= {
            call_id for call_id, fate in outcomes.items() if fate != "not_forwarded"
        }
    return {name: outcomes[call_id] for name, call_id in names.items()}
