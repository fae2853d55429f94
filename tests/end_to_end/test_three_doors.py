"""Three gateways, a process each, on one PostgreSQL: what one decides holds at every other's door.

Each test runs at the doors of all, and once more through nginx with deploy/nginx.conf before them.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from tests.end_to_end.demonstration import need_opa
from tests.end_to_end.nginx import Nginx, free_port, nginx_before, settings_behind
from tests.end_to_end.recording_tool import SESSION, recording_tool
from tests.end_to_end.two_served import (
    PASSED,
    SECONDS,
    Deployment,
    Served,
    a_message,
    client,
    last,
    until,
)
from tests.postgresql import a_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

LIMIT = 7
STOPPED, CHANGED, DENIED, ASKED, EXCEEDED = -31001, -31002, -31003, -31004, -31005
Trio = tuple[Served, Served, Served]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Standing:
    """What is started once; ``made`` has no server yet."""

    made: Deployment
    doors: tuple[str, str, str]
    nginx: Nginx


@pytest.fixture(scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Standing]:
    need_opa()
    folder = tmp_path_factory.mktemp("two")
    port = free_port()
    with a_database() as place:
        made = Deployment(folder, place, more=settings_behind(port))
        await asyncio.to_thread(made.make)
        async with (
            made.running("one") as one,
            made.running("two") as two,
            made.running("three") as three,
        ):
            doors = (one.base_url, two.base_url, three.base_url)
            ports = [httpx.URL(door).port or 0 for door in doors]
            async with nginx_before(folder / "nginx", ports, port) as nginx:
                yield Standing(made, doors, nginx)


@pytest.fixture(scope="module", params=["at the doors", "through nginx"])
async def trio(standing: Standing, request: pytest.FixtureRequest) -> AsyncIterator[Trio]:
    urls = standing.doors
    nginx = standing.nginx if request.param == "through nginx" else None
    if nginx is not None:
        urls = (nginx.url, nginx.url, nginx.url)
    trusting = nginx.context if nginx else None
    async with recording_tool() as tool:
        made = replace(standing.made, tool=tool, keys=dict(standing.made.keys))
        async with (
            made.at(urls[0], trusting) as one,
            made.at(urls[1], trusting) as two,
            made.at(urls[2], trusting) as three,
        ):
            await made.register(one, request.param)

            await known_at_each(standing.doors, one)
            yield one, two, three


@pytest.fixture
def deployment(trio: Trio) -> Deployment:
    return trio[0].deployment


async def known_at_each(doors: Sequence[str], over: Served) -> None:
    """Until each, whoever nginx asks, knows what was made before: it knows a key of after that."""
    deployment = over.deployment
    new = await over.told("POST", "/keys", role="project", name="newest", owner="Olga")
    path = f"/api/v1/mcp/proxy/{deployment.server_id}"
    for door in doors:
        async with client(door, new["key"]) as asking:

            async def is_known(asking: httpx.AsyncClient = asking) -> bool:
                return (await asking.post(path, json=a_message("ping"))).status_code == 200

            await until(is_known)


async def decided(approval_id: str, *asked: tuple[Served, str, str]) -> list[int]:
    """The HTTP status of each: a gateway, who decides and which way, all at once."""
    path = f"/approvals/{approval_id}"
    answers = await asyncio.gather(
        *(one.api("POST", f"{path}/{verb}", who, reason="-") for one, who, verb in asked)
    )
    return sorted(answer.status_code for answer in answers)


async def called(trio: Trio, tool: str, name: str, times: int) -> Counter[int]:
    """Codes, of calls at all doors at once."""
    return Counter(
        await asyncio.gather(*(trio[n % len(trio)].code(tool, name) for n in range(times)))
    )


async def test_what_is_registered_over_one_is_called_over_all(
    trio: Trio, deployment: Deployment
) -> None:
    assert await called(trio, "read", "registered", 10) == {PASSED: 10}
    assert deployment.tool.seen.count("registered") == 10


async def test_what_is_made_at_one_is_there_at_anothers_api_at_once(
    trio: Trio, deployment: Deployment
) -> None:
    one, two, _ = trio
    new: dict[str, Any] = {"server_url": deployment.tool.url, "allow_private_network": True}
    for n in range(5):
        name = f"{deployment.server_id} {n}"
        made = await one.told("POST", "/mcp/servers", name=name, **new)
        await two.told("POST", f"/mcp/servers/{made['id']}/scan")
        key = await two.told("POST", "/keys", role="auditor", name=name, owner="Olga")
        async with one.client_with(key["key"]) as auditor:
            assert (await auditor.get(f"/api/v1/mcp/servers/{made['id']}")).is_success
    unknown = await two.api("POST", "/mcp/servers/srv_unknown/scan")
    assert unknown.status_code == 404


async def test_an_approval_asked_at_one_is_granted_and_spent_once(
    trio: Trio, deployment: Deployment
) -> None:
    one, two, _ = trio
    refusals = await asyncio.gather(
        *(trio[n % len(trio)].call("delete", "spent") for n in range(6))
    )
    approval_ids = {refusal["error"]["data"]["approval_id"] for refusal in refusals}
    (approval_id,) = approval_ids
    robin = [(gateway, "Robin", "approve") for gateway in (one, two, one, two)]
    assert await decided(approval_id, *robin) == [200, 409, 409, 409]
    assert await called(trio, "delete", "spent", 12) == {PASSED: 1, ASKED: 11}
    assert deployment.tool.seen.count("spent") == 1
    for gateway in trio:
        seen = await gateway.told("GET", f"/approvals/{approval_id}", "Robin")
        assert seen["status"] == "CONSUMED"


async def test_of_an_approval_and_a_denial_at_once_one_counts(
    trio: Trio, deployment: Deployment
) -> None:
    one, two, _ = trio
    for n in range(4):
        name = f"contested {n}"
        approval_id = (await one.call("delete", name))["error"]["data"]["approval_id"]
        asked = (one, "Robin", "approve"), (two, "Sam", "deny"), (two, "Robin", "approve")
        assert await decided(approval_id, *asked) == [200, 409, 409]
        told = {(await g.told("GET", f"/approvals/{approval_id}", "Sam"))["status"] for g in trio}
        (status,) = told
        expected = {"APPROVED": {PASSED: 1, ASKED: 3}, "DENIED": {ASKED: 4}}[status]
        assert await called(trio, "delete", name, 4) == expected
        assert deployment.tool.seen.count(name) == (status == "APPROVED")


async def test_parallel_calls_at_all_doors_never_settle_above_a_budget(
    trio: Trio, deployment: Deployment, standing: Standing
) -> None:
    one, _, _ = trio
    tools = (await one.told("GET", f"/mcp/servers/{deployment.server_id}/tools"))["items"]
    (target,) = (tool["id"] for tool in tools if tool["name"] == "count")
    budget = {"scope": "tool", "target_id": target, "dimension": "requests", "window": "month"}
    made = await one.told("POST", "/budgets", **budget, limit=LIMIT, on_exceed="BLOCK")

    await known_at_each(standing.doors, one)
    assert await called(trio, "count", "counted", 4 * LIMIT) == {PASSED: LIMIT, EXCEEDED: 3 * LIMIT}
    assert deployment.tool.seen.count("counted") == LIMIT

    async def settled() -> bool:
        seen = [await gateway.told("GET", f"/budgets/{made['id']}") for gateway in trio]
        return all((row["used"], row["held"]) == (LIMIT, 0) for row in seen)

    await until(settled)


async def test_a_changed_tool_and_a_revoked_key_are_known_to_the_other(
    trio: Trio, deployment: Deployment
) -> None:
    one, two, _ = trio
    assert await two.code("change", "before") == PASSED
    deployment.tool.descriptions["change"] = "Does something else"
    await one.told("POST", f"/mcp/servers/{deployment.server_id}/scan")
    # Admission asks the database: no call passes at the other, whatever its memory says.
    assert await two.code("change", "withheld") == CHANGED
    tools = (await two.told("GET", f"/mcp/servers/{deployment.server_id}/tools"))["items"]
    (changed,) = (tool for tool in tools if tool["name"] == "change")
    tool_id = changed["id"]
    accepted = {"definition_sha256": changed["definition_sha256"], "reason": "seen"}
    await two.told("POST", f"/mcp/tools/{tool_id}/accept", **accepted)

    async def passes() -> bool:
        return await one.code("change", "after") == PASSED

    await until(passes)
    assert "withheld" not in deployment.tool.seen

    new = await one.told("POST", "/keys", role="project", name="short", owner="Olga")
    path = f"/api/v1/mcp/proxy/{deployment.server_id}"
    message = a_message("tools/call", name="read", arguments={"object": "revoked"})
    async with two.client_with(new["key"]) as other:

        async def is_known() -> bool:
            return (await other.post(path, json=message)).status_code == 200

        await until(is_known)
        await one.told("DELETE", f"/keys/{new['id']}")
        before = deployment.tool.seen.count("revoked")
        answer = await other.post(path, json=message)
        assert answer.status_code == 401 or "key_revoked" in answer.text

        async def is_refused() -> bool:
            return (await other.post(path, json=message)).status_code == 401

        await until(is_refused)
        assert deployment.tool.seen.count("revoked") == before


async def test_a_session_a_state_and_a_task_of_one_go_on_at_the_other(
    trio: Trio, deployment: Deployment
) -> None:
    one, two, _ = trio
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}}
    hello["clientInfo"] = {"name": "test", "version": "1"}
    session = (await one.post(a_message("initialize", **hello))).headers["mcp-session-id"]
    assert session != SESSION
    message = a_message("tools/call", name="read", arguments={"object": "session"})
    answer = await two.post(message, {"Mcp-Session-Id": session})
    assert "result" in last(answer)
    assert deployment.tool.sessions == [SESSION]

    call = {"name": "ask", "arguments": {"object": "state"}}
    asked = await one.modern("tools/call", "ask", **call)
    assert asked["resultType"] == "input_required"
    answers = {"sure": {"action": "accept", "content": {}}}
    state = {"requestState": asked["requestState"], "inputResponses": answers}
    done = await two.modern("tools/call", "ask", **call, **state)
    assert done["content"][0]["text"] == "done"

    task = await one.modern("tools/call", "delete", name="delete", arguments={"object": "task"})
    assert task["resultType"] == "task"
    task_id = task["taskId"]
    seen = await two.modern("tasks/get", task_id, taskId=task_id)
    assert seen["status"] == "working"
    waiting = re.findall(r"apr_\w+", task["statusMessage"])
    assert await decided(waiting[0], (two, "Robin", "approve")) == [200]

    async def completed() -> bool:
        told = [await g.modern("tasks/get", task_id, taskId=task_id) for g in trio]
        return all(task["status"] == "completed" for task in told)

    await until(completed)
    assert deployment.tool.seen.count("task") == 1


async def test_a_stop_of_one_refuses_at_all_and_cuts_the_others_streams(
    trio: Trio, deployment: Deployment
) -> None:
    one, two, _ = trio
    streams = [asyncio.create_task(gateway.call("held", "cut")) for gateway in trio]
    async with asyncio.timeout(SECONDS):
        for _ in streams:
            await deployment.tool.begun.get()
    raised = await one.told("POST", "/mcp/emergency-stop", scope="all", reason="a drill")
    # The API has answered: from here on not one call passes, at any door.
    assert await called(trio, "read", "stopped", 10) == {STOPPED: 10}
    assert "stopped" not in deployment.tool.seen
    cut = await asyncio.wait_for(asyncio.gather(*streams), SECONDS)
    assert [message["error"]["code"] for message in cut] == [STOPPED] * len(trio)
    path = f"/mcp/emergency-stop/{raised['id']}/lift"
    await two.told("POST", path, reason="over")
    for gateway in trio:

        async def passes(gateway: Served = gateway) -> bool:
            return await gateway.code("read", "lifted") == PASSED

        await until(passes)
