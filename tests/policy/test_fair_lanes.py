"""One key sends the largest inputs there are; another key's decisions do not wait behind them.

How long that takes is measured by `benchmarks/policies.py`.
"""

import asyncio
import statistics
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from gateway.policy.engine import LARGEST_QUESTION
from gateway.policy.opa import OpaOptions
from tests.policy.world import MODES, World, bundle_of, running

pytestmark = pytest.mark.anyio

LOUD_CALLS = 16
QUIET_CALLS = 60
PATIENCE = 120
"""Seconds for one decision, so that only the order is judged and never the machine."""


async def test_large_inputs_of_one_key_do_not_pass_another_keys_decisions(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "src", MODES)
    async with running(tmp_path, bundle, OpaOptions(missed_checks=1000), PATIENCE) as world:
        pid = world.pid
        decided = list[None]()
        loud = [asyncio.create_task(_shout(world, decided)) for _ in range(LOUD_CALLS)]
        try:
            passed = await _decide_steadily(world, decided)
        finally:
            for caller in loud:
                caller.cancel()
            await asyncio.gather(*loud, return_exceptions=True)
        assert len(decided) > LOUD_CALLS, "the large inputs must really have been decided"
        # A place is always free for a small one: OPA is done with it before the large one.
        assert statistics.median(passed) == 0, passed
        assert max(passed) < LOUD_CALLS / 2, passed
        assert world.pid == pid, "OPA must not have been restarted"
        peak = _peak_bytes(pid)
        assert peak is None or peak < OpaOptions().memory_bytes


async def _shout(world: World, decided: list[None]) -> None:
    """Ask the largest question again and again."""
    item = {"record": {"id": 1, "fields": ["a", "b", None, 1.5]}}
    items = [item] * (LARGEST_QUESTION // (len(orjson.dumps(item)) + 1) - 2)
    question = orjson.dumps({"input": {"arguments": {"items": items}}})
    assert 0.95 * LARGEST_QUESTION < len(question) <= LARGEST_QUESTION
    while True:
        await world.engine.ask(b"gateway/decision", question, key="loud")
        decided.append(None)


async def _decide_steadily(world: World, decided: Sequence[None]) -> list[int]:
    """How many large inputs were decided while each small one waited."""
    question = orjson.dumps({"input": {"arguments": {"mode": "allow"}}})
    passed = list[int]()
    while len(passed) < QUIET_CALLS or len(decided) <= LOUD_CALLS:
        before = len(decided)
        await world.engine.ask(b"gateway/decision", question, key="quiet")
        passed.append(len(decided) - before)
        await asyncio.sleep(0.005)
    return passed


def _peak_bytes(pid: int) -> int | None:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
