"""The SDK's client completes a call that a person approves, by itself, as far as it can."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ElicitResult, Request, RequestParams, Result

from gateway.demo.instructions import APPROVER, Demo
from tests.end_to_end.demonstration import need_opa, running
from tests.end_to_end.test_proxy_sdk import behind_the_gateway

pytestmark = pytest.mark.anyio

PATIENCE = 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    need_opa()
    with running(tmp_path_factory.mktemp("gateway") / "demo") as it:
        yield it.demo


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    need_opa()
    held = {"GATEWAY_APPROVAL_HOLD_SECONDS": "60"}
    with running(tmp_path_factory.mktemp("patient") / "demo", settings=held) as it:
        yield it.demo


@asynccontextmanager
async def connected(demo: Demo, mode: str, *, url: str = "", **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {demo.project_key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=PATIENCE, trust_env=False) as http,
        Client(
            streamable_http_client(url or demo.proxy_url, http_client=http), mode=mode, **options
        ) as client,
    ):
        yield client


async def approve_on_the_page(demo: Demo, url: str, tool: str = "delete_record") -> None:
    """As a person does: sign in, look, press the button."""
    origin = {"Origin": demo.base_url}
    async with httpx.AsyncClient(
        headers=origin, trust_env=False, follow_redirects=True, timeout=PATIENCE
    ) as browser:
        page = await browser.get(url)
        assert "Sign in" in page.text
        path = url.removeprefix(demo.base_url)
        login = {"name": APPROVER, "password": demo.approver_password, "next": path}
        page = await browser.post(f"{demo.base_url}/dashboard/sign-in", data=login)
        assert tool in page.text
        assert "Approving sends exactly this call, once." in page.text
        textarea = re.search(r"<textarea[^>]*>", page.text)
        assert textarea is not None
        assert " required" not in textarea[0]  # no policy wants a reason here
        form = re.search(f'action="{path}/approve".*?</form>', page.text, re.S)
        assert form is not None
        hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form[0])
        decided = await browser.post(f"{url}/approve", data={**dict(hidden), "reason": ""})
        assert "may pass once" in decided.text


async def test_a_modern_client_shows_the_page_and_comes_back_by_itself(demo: Demo) -> None:
    pages: list[str] = []

    async def show(context: Any, params: Any) -> ElicitResult:
        pages.append(params.url)
        await approve_on_the_page(demo, params.url)
        return ElicitResult(action="accept")

    async with connected(demo, "2026-07-28", elicitation_callback=show) as client:
        answer = await client.call_tool("delete_record", {"record_id": "OPP-0001"})
    assert answer.is_error is False
    assert len(pages) == 1


async def test_a_client_that_only_looks_at_the_page_waits_for_the_person(demo: Demo) -> None:
    approving: list[asyncio.Task[None]] = []

    async def show(context: Any, params: Any) -> ElicitResult:
        if not approving:
            approving.append(asyncio.create_task(approve_on_the_page(demo, params.url)))
        return ElicitResult(action="accept")

    async with connected(demo, "2026-07-28", elicitation_callback=show) as client:
        answer = await client.call_tool("delete_record", {"record_id": "OPP-0002"})
        await approving[0]
    assert answer.is_error is False


async def test_a_legacy_client_that_shows_pages_is_given_the_page(demo: Demo) -> None:
    async def show(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="decline")

    async with behind_the_gateway(demo, "asks a legacy client") as world:
        rule = {"server_id": world.server_id, "tool_pattern": "add", "action": "REQUIRE_APPROVAL"}
        await world.api("POST", "/mcp/policies", {**rule, "reason": "A test."})
        async with connected(demo, "legacy", url=world.url, elicitation_callback=show) as client:
            with pytest.raises(MCPError) as refused:
                await client.call_tool("add", {"a": 2, "b": 40})
            error = refused.value.error
            assert error.code == -32042
            await approve_on_the_page(demo, error.data["elicitations"][0]["url"], "add")
            answer = await client.call_tool("add", {"a": 2, "b": 40})
    assert answer.structured_content == {"total": 42}


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_held_call_completes_without_any_capability(patient: Demo, mode: str) -> None:
    headers = {"Authorization": f"Bearer {patient.approver_key}"}
    api = f"{patient.base_url}/api/v1/approvals"
    record = "OPP-0003" if mode == "legacy" else "OPP-0004"
    async with (
        connected(patient, mode) as client,
        httpx.AsyncClient(headers=headers, trust_env=False, timeout=PATIENCE) as approver,
    ):
        calling = asyncio.create_task(client.call_tool("delete_record", {"record_id": record}))
        waiting: list[dict[str, Any]] = []
        while not waiting:
            await asyncio.sleep(0.2)
            waiting = (await approver.get(f"{api}?status=PENDING")).json()["items"]
        assert not calling.done()
        await approver.post(f"{api}/{waiting[0]['id']}/approve", json={"reason": "seen"})
        answer = await asyncio.wait_for(calling, PATIENCE)
    assert answer.is_error is False


class TaskHandle(Result):
    """`CreateTaskResult` of the tasks extension."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str


class TaskId(RequestParams):
    task_id: str


class GetTask(Request[TaskId, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskId
    name_param = "taskId"


class TaskSeen(Result):
    """`GetTaskResult`."""

    status: str
    result: dict[str, Any] | None = None


class TakesTasks(ClientExtension):
    """The tasks extension as a client of the SDK has it: a handle, polled until it is over."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self) -> None:
        self.handles: list[TaskHandle] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=TaskHandle, resolve=self._resolve)]

    async def _resolve(self, handle: TaskHandle, context: ClaimContext) -> CallToolResult:
        self.handles.append(handle)
        ask = GetTask(params=TaskId(task_id=handle.task_id))
        while True:
            seen = await context.session.send_request(ask, TaskSeen)
            if seen.status == "completed":
                return CallToolResult.model_validate(seen.result)
            assert seen.status == "working", seen
            await asyncio.sleep(0.2)


async def test_a_client_with_the_tasks_extension_gets_the_result_of_an_approved_call(
    demo: Demo,
) -> None:
    extension = TakesTasks()
    headers = {"Authorization": f"Bearer {demo.approver_key}"}
    api = f"{demo.base_url}/api/v1/approvals"
    async with (
        connected(demo, "2026-07-28", extensions=[extension]) as client,
        httpx.AsyncClient(headers=headers, trust_env=False, timeout=PATIENCE) as approver,
    ):
        calling = asyncio.create_task(client.call_tool("delete_record", {"record_id": "OPP-0005"}))
        waiting: list[dict[str, Any]] = []
        while not (waiting and extension.handles):
            await asyncio.sleep(0.2)
            waiting = (await approver.get(f"{api}?status=PENDING")).json()["items"]
        assert not calling.done()
        path = f"{api}/{waiting[0]['id']}"
        assert (await approver.post(f"{path}/approve", json={})).status_code == 200
        answer = await asyncio.wait_for(calling, PATIENCE)
        assert (await approver.get(path)).json()["status"] == "CONSUMED"
    assert answer.is_error is False
    assert len(extension.handles) == 1
