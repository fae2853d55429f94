"""The client library, against the real API on a real port."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette

from gateway import client as client_module
from gateway.api.errors import EXCEPTION_HANDLERS
from gateway.api.routes import routes
from gateway.client import ApprovalNeeded, AsyncGateway, Denied, Gateway
from gateway.refusals import Refused
from gateway.values import Action
from tests.api.world import World, a_world
from tests.extensions.events import records
from tests.serving import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    app = Starlette(routes=routes(world.context), exception_handlers=EXCEPTION_HANDLERS)
    async with serving(app) as port:
        yield f"http://127.0.0.1:{port}"


def patient() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=60, trust_env=False)


def an_agent(world: World) -> tuple[str, str]:
    """A project key and a server that it may ask about."""
    return world.key()[1], world.extension(name="tools")[0].server_id


async def test_a_guarded_tool_is_decided_made_and_reported(world: World, url: str) -> None:
    key, server = an_agent(world)
    gateway = AsyncGateway(url, key, server_id=server, http=patient())
    made: list[Any] = []

    @gateway.guard(risk="LOW")
    async def lookup(id: str, deep: bool = False) -> str:
        made.append((id, deep))
        return "found"

    assert await lookup("7") == "found"
    assert made == [("7", False)]
    (decided,) = world.line.world.records("decision")
    world.line.policy.action = Action.DENY
    with pytest.raises(Denied) as denied:
        await lookup("8")
    assert denied.value.decision.reason_code == "policy_denied"
    world.line.policy.action = Action.REQUIRE_APPROVAL
    with pytest.raises(ApprovalNeeded) as needed:
        await lookup("9")
    assert needed.value.decision.approval_id is not None
    assert len(made) == 1
    kinds = [(r["kind"], r.get("fate")) for r in records(world, decided["call"])]
    assert kinds == [("decision", None), ("outcome", "handed_over"), ("outcome", "reported")]
    assert decided["tool"] == "lookup"
    await gateway.aclose()


async def test_a_tool_that_fails_is_reported_as_failed(world: World, url: str) -> None:
    key, server = an_agent(world)
    gateway = AsyncGateway(url, key, server_id=server, http=patient())

    @gateway.guard()
    async def breaks() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await breaks()
    (decided,) = world.line.world.records("decision")
    assert records(world, decided["call"])[-1]["status"] == "tool_error"
    await gateway.aclose()


async def test_ordinary_functions_have_a_client_too(world: World, url: str) -> None:
    key, server = an_agent(world)

    def run() -> str:
        http = httpx.Client(timeout=60, trust_env=False)
        gateway = Gateway(url, key, server_id=server, http=http)
        made = gateway.guard(name="renamed")(lambda id: f"did {id}")("1")
        decision = gateway.decide("other", {}, user={"id": "ann"})
        assert decision.allowed
        assert gateway.report(decision)
        gateway.close()
        return made

    assert await anyio.to_thread.run_sync(run) == "did 1"
    tools = [record["tool"] for record in world.line.world.records("decision")]
    assert tools == ["renamed", "other"]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAUSES", (0.0, 0.0))


@pytest.mark.usefixtures("hurried")
async def test_without_a_gateway_nothing_is_called_unless_it_is_said_to_be_mild() -> None:
    nowhere = "http://127.0.0.1:9"
    for on_failure, risk, allowed in (
        ("block", "LOW", False),
        ("by_risk", "LOW", True),
        ("by_risk", "MEDIUM", True),
        ("by_risk", "HIGH", False),
    ):
        gateway = AsyncGateway(nowhere, "gwp_x", on_failure=on_failure)  # type: ignore[arg-type]
        decision = await gateway.decide("t", {}, risk=risk)  # type: ignore[arg-type]
        assert (decision.allowed, decision.failed_open) == (allowed, allowed)
        assert decision.reason_code == "gateway_unavailable"
        assert not await gateway.report(decision)
        await gateway.aclose()


@pytest.mark.usefixtures("hurried")
async def test_a_refused_key_is_no_failure_to_be_lenient_about(world: World, url: str) -> None:
    gateway = AsyncGateway(url, "gwp_wrong", on_failure="by_risk", http=patient())
    decision = await gateway.decide("t", {}, risk="LOW")
    assert (decision.allowed, decision.reason_code) == (False, "gateway_refused")
    await gateway.aclose()


@pytest.mark.usefixtures("hurried")
async def test_it_asks_again_with_the_same_id_and_is_charged_once(world: World, url: str) -> None:
    key, server = an_agent(world)
    tries = 0

    async def once_broken() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Refused("policy_unavailable")

    world.line.policy.meanwhile = once_broken
    gateway = AsyncGateway(url, key, server_id=server, http=patient())
    decision = await gateway.decide("t", {})
    assert (decision.decision, tries) == ("PASSED", 2)
    again = await gateway.decide("t", {}, event_id=decision.event_id)
    assert again.trace_id == decision.trace_id
    await gateway.aclose()
