"""The operators' daily commands, over a real API on a real socket, and the stop that needs none."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from starlette.applications import Starlette
from typer.testing import CliRunner, Result

from gateway import cli
from gateway.api.errors import EXCEPTION_HANDLERS
from gateway.api.routes import routes
from gateway.commands.traces import _since
from gateway.configuration.api import Api
from gateway.registry.stop_file import StopFile
from gateway.values import Role
from tests.api.world import World, a_world
from tests.serving import serving

pytestmark = pytest.mark.anyio

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as world:
        yield world


def invoked(url: str, key: str, words: tuple[str, ...]) -> Result:
    env = {"POLICY_GATEWAY_URL": url, "POLICY_GATEWAY_KEY": key}
    command = cli.command_line(words[0])
    return CliRunner(env=env).invoke(command, list(words), catch_exceptions=False)


@asynccontextmanager
async def running(world: World, role: Role = Role.ADMIN) -> AsyncIterator[Run]:
    app = Starlette(routes=routes(world.context), exception_handlers=EXCEPTION_HANDLERS)
    async with serving(app, lifespan="off") as port:

        async def run(*words: str) -> Result:
            url = f"http://127.0.0.1:{port}"
            invoke = partial(invoked, url, world.keys[role], words)
            return await anyio.to_thread.run_sync(invoke)

        yield run


async def test_a_server_is_added_activated_and_scanned(world: World) -> None:
    async with running(world) as run:
        added = await run("server", "add", "Mail", "https://mail.example.com/mcp", "--json")
        server = json.loads(added.stdout)
        assert (added.exit_code, server["status"]) == (0, "PENDING_APPROVAL")
        scanned = await run("server", "scan", "mail", "--json")
        assert scanned.exit_code == 0, scanned.output
        assert json.loads(scanned.stdout)["added"] == ["query_records"]
        active = await run("server", "add", "B", "https://b.example.com/mcp", "--activate")
        assert "ACTIVE" in active.stdout
        unknown = await run("server", "scan", "nothing")
        assert (unknown.exit_code, "no servers has the slug nothing" in unknown.stderr) == (1, True)


async def test_a_stop_is_raised_for_one_target_and_lifted_with_a_reason(world: World) -> None:
    async with world.client() as client:
        agent = (await client.post("agents", json={"name": "bot", "owner": "o"})).json()["id"]
    async with running(world) as run:
        raised = await run("stop", "--agent", "bot", "--reason", "it loops", "--json")
        told = json.loads(raised.stdout)
        assert (raised.exit_code, told["cancelled_calls"]) == (0, world.upstream.running_calls)
        assert [(s.scope, s.target_id) for s in world.upstream.stops] == [("agent", agent)]
        lifted = await run("stop", "--lift", told["id"], "--reason", "mended", "--json")
        assert json.loads(lifted.stdout)["lift_reason"] == "mended"
        again = await run("stop", "--lift", told["id"], "--reason", "mended")
        assert (again.exit_code, "lifted already" in again.stderr) == (1, True)


async def test_an_approver_may_stop_everything(world: World) -> None:
    async with running(world, Role.APPROVER) as run:
        assert (await run("stop", "--all", "--reason", "a drill")).exit_code == 0
        [stop] = world.state.directory.view(world.project_id).stops
        assert stop.scope == "all"


@pytest.mark.parametrize("given", [(), ("--all", "--all-projects"), ("--all", "--agent", "a")])
async def test_a_stop_of_nothing_or_of_two_things_is_wrong_usage(
    world: World, given: tuple[str, ...]
) -> None:
    async with running(world) as run:
        assert (await run("stop", *given, "--reason", "r")).exit_code == 2


def test_all_projects_are_stopped_without_the_api(world: World) -> None:
    folder = str(world.state.data_dir)
    nowhere = ("http://127.0.0.1:1", "gwa_none")
    words = ("stop", "--all-projects", "--reason", "a fire", "--data-dir", folder)
    assert invoked(*nowhere, words).exit_code == 0
    stop = StopFile(world.state.data_dir).read()
    assert stop is not None
    assert (stop.project_id, stop.reason) == (None, "a fire")
    lifting = ("stop", "--lift", "stp_file", "--reason", "out", "--data-dir", folder)
    assert invoked(*nowhere, lifting).exit_code == 0
    assert StopFile(world.state.data_dir).read() is None


def test_a_folder_without_a_gateway_is_not_stopped(tmp_path: Path) -> None:
    words = ("stop", "--all-projects", "--reason", "r", "--data-dir", str(tmp_path))
    refused = invoked("http://127.0.0.1:1", "gwa_none", words)
    assert (refused.exit_code, "holds no gateway" in refused.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_that_does_not_answer_is_exit_code_three(world: World) -> None:
    words = ("stop", "--all", "--reason", "r")
    refused = invoked("http://127.0.0.1:1", "gwa_none", words)
    assert (refused.exit_code, "does not answer" in refused.stderr) == (3, True)


async def test_approvals_are_listed_shown_approved_and_denied(world: World) -> None:
    approvals = [world.approval(world.keys[Role.PROJECT]) for _ in range(2)]
    async with running(world, Role.APPROVER) as run:
        listed = await run("approvals", "list", "--json")
        assert [json.loads(row)["id"] for row in listed.stdout.splitlines()] == sorted(approvals)
        shown = await run("approvals", "show", approvals[0])
        assert '"id": "001"' in shown.stdout
        approved = await run("approvals", "approve", approvals[0], "--reason", "fine", "--json")
        assert json.loads(approved.stdout)["status"] == "APPROVED"
        denied = await run("approvals", "deny", approvals[1], "--reason", "no")
        assert (denied.exit_code, "DENIED" in denied.stdout) == (0, True)
        assert (await run("approvals", "list")).stdout == ""
        everything = await run("approvals", "list", "--status", "all")
        assert len(everything.stdout.splitlines()) == 2


async def test_what_an_agent_named_cannot_steer_the_terminal(world: World) -> None:
    approval = world.approval(world.keys[Role.PROJECT], tool_name="x\x1b[2J")
    async with running(world) as run:
        assert "\x1b" not in (await run("approvals", "list")).stdout
        assert "\x1b" not in (await run("approvals", "show", approval)).stdout


async def test_the_newest_records_are_printed_the_newest_last(world: World) -> None:
    async with running(world) as run, world.client() as client:
        for name in ("a", "b", "c"):
            await client.post("agents", json={"name": name, "owner": "o"})
        tail = await run("traces", "tail", "-n", "2", "--json")
        rows = [json.loads(row) for row in tail.stdout.splitlines()]
        everything = (await client.get("traces?limit=2")).json()["items"]
        assert [row["id"] for row in rows] == [row["id"] for row in reversed(everything)]


async def test_following_prints_each_new_record_once_however_many_there_are(world: World) -> None:
    app = Starlette(routes=routes(world.context), exception_handlers=EXCEPTION_HANDLERS)
    async with serving(app, lifespan="off") as port, world.client() as client:
        seen = (await client.get("traces?limit=1")).json()["items"][0]
        for number in range(3):
            await client.post("agents", json={"name": f"a{number}", "owner": "o"})

        def look() -> list[str]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("gateway.commands.traces._PAGE", 2)
                with Api(f"http://127.0.0.1:{port}", world.keys[Role.ADMIN]) as api:
                    rows = _since(api, seen)
                    assert _since(api, rows[-1]) == []
                    return [row["idx"] for row in rows]

        found = await anyio.to_thread.run_sync(look)
    assert found == [seen["idx"] + n for n in (1, 2, 3)]
