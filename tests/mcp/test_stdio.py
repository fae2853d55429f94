"""Programs as servers: what they are sent, who hears them, and what becomes of those that lie."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.flows import EventStream
from gateway.mcp.scan import scan
from gateway.mcp.stdio import StdioServers
from gateway.mcp.stdio_process import StdioLimits, as_line
from gateway.mcp.stdio_programs import Program, Programs, read_programs
from gateway.mcp.upstream import Limits, Upstreams
from gateway.refusals import Refused
from gateway.settings import Settings, SettingsFault
from gateway.values import Era, Fate, Forwarded, Server
from tests.conftest import needs
from tests.mcp.builders import HANDLES, a_caller, a_permit, a_request, a_server

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent / "stdio_servers"
MODERN: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
VERSION = (b"mcp-protocol-version", b"2025-11-25")


@dataclass
class World:
    upstreams: Upstreams
    server: Server

    async def send(
        self, message: dict[str, Any] | bytes, *headers: tuple[bytes, bytes], method: str = "POST"
    ) -> Forwarded:
        body = message if isinstance(message, bytes) else orjson.dumps(message)
        era = Era.MODERN if b"io.modelcontextprotocol" in body else Era.LEGACY
        rpc_id = orjson.loads(body).get("id") if body else None
        request = a_request(body, *headers, method=method)
        caller = a_caller(self.server)
        request = HANDLES.inward(caller, request, None)
        return await self.upstreams.relay(caller, request, rpc_id=rpc_id, era=era)

    async def session(self) -> tuple[bytes, bytes]:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        answer = await self.send(request("initialize", 1, **params))
        assert answer.status == 200
        return b"mcp-session-id", dict(answer.headers)[b"mcp-session-id"]


def request(method: str, rpc_id: Any = 7, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params}


def call(name: str, rpc_id: Any = 7, **meta: Any) -> dict[str, Any]:
    return request("tools/call", rpc_id, name=name, arguments={}, _meta=meta)


def programs(mode: str = "", script: str = "hostile.py", **changes: Any) -> Programs:
    command = (sys.executable, str(HERE / script), *([mode] if mode else []))
    return Programs({"files": Program("files", command, {}, (), **changes)}, None, unsafe=True)


@asynccontextmanager
async def world(of: Programs, **limits: float) -> AsyncIterator[World]:
    bounds = {"answer_seconds": 60.0, "discover_seconds": 60.0, "line_bytes": 200_000, **limits}
    stdio = StdioServers(of, lambda _: "acme", StdioLimits(**bounds))  # type: ignore[arg-type]
    ups = Upstreams(HANDLES, limits=Limits(), stdio=stdio)
    server = a_server(0, url="stdio:files", transport="stdio", auth_headers=())
    try:
        yield World(ups, server)
    finally:
        await ups.close()


def result(answer: Forwarded) -> Any:
    assert answer.body is not None, answer
    return orjson.loads(answer.body)["result"]


async def events(answer: Forwarded) -> list[Any]:
    stream = answer.stream
    assert stream is not None
    found = [orjson.loads(stream.data) async for _ in stream if stream.data]
    await stream.aclose()
    return found


async def the_next(stream: EventStream) -> Any:
    await stream.__anext__()
    return orjson.loads(stream.data)


async def test_a_body_is_one_line_whatever_line_ends_stand_in_it() -> None:
    params = '{"x":"a\u2028b\u2029c\x85d","n":1.10}'
    smuggled = f'{{"jsonrpc":"2.0",\n"id":7,\r\n"method":"tools/list","params":{params}}}'
    async with world(programs()) as it:
        session = await it.session()
        heard = result(await it.send(smuggled.encode(), session, VERSION))
    assert heard["lines"] == 2
    assert heard["read"].isascii()
    assert heard["read"].count("\n") == 1
    assert '"n":1.10' in heard["read"]
    read = orjson.loads(heard["read"])
    assert read == {**orjson.loads(smuggled), "params": {"x": "a\u2028b\u2029c\x85d", "n": 1.1}}


async def test_a_body_on_one_line_is_written_as_it_came() -> None:
    body = b'{ "jsonrpc" : "2.0", "id": 7, "method": "tools/list", "params": {} }'
    assert as_line(body) is body
    async with world(programs()) as it:
        session = await it.session()
        assert result(await it.send(body, session, VERSION))["read"] == body.decode() + "\n"


async def test_each_session_has_a_process_and_ends_with_it() -> None:
    async with world(programs()) as it:
        one, other = await it.session(), await it.session()
        assert result(await it.send(request("x"), one, VERSION))["lines"] == 2
        assert result(await it.send(request("x"), other, VERSION))["lines"] == 2
        assert (await it.send(b"", one, VERSION, method="DELETE")).status == 200
        gone = await it.send(request("x"), one, VERSION)
        assert gone.status == 404
        assert result(await it.send(request("x"), other, VERSION))["lines"] == 3
    # Without a session there is nobody to tell.
    async with world(programs()) as it:
        assert (await it.send(request("x"), VERSION)).status == 400


async def test_the_modern_era_shares_a_process_and_gives_ids_back_type_and_value() -> None:
    async with world(programs()) as it:
        asked = [call("echo", rpc_id, **MODERN) for rpc_id in (1, "1", 1, "b")]
        answers = await asyncio.gather(*(it.send(message) for message in asked))
    bodies = [orjson.loads(answer.body or b"") for answer in answers]
    assert [body["id"] for body in bodies] == [1, "1", 1, "b"]
    assert len({body["result"]["id"] for body in bodies}) == 4
    assert max(body["result"]["lines"] for body in bodies) == 4


async def test_progress_comes_back_under_the_callers_token_and_nothing_of_others() -> None:
    async with world(programs()) as it:
        told = await events(await it.send(call("others", 7, progressToken="mine", **MODERN)))
    assert [message.get("method") for message in told] == ["notifications/progress", None]
    assert told[0]["params"]["progressToken"] == "mine"
    assert told[1]["result"]["token"] != "mine"


async def test_a_question_reaches_the_caller_and_only_its_answer_the_program() -> None:
    async with world(programs()) as it:
        session = await it.session()
        answer = await it.send(call("asks"), session, VERSION)
        assert answer.stream is not None
        question = await the_next(answer.stream)
        assert question["method"] == "roots/list"
        reply = {"jsonrpc": "2.0", "id": "q1", "result": {"roots": []}}
        for unasked in ({**reply, "id": "q2"}, {**reply, "result": {"roots": [1]}, "id": 1}):
            assert (await it.send(unasked, session, VERSION)).status == 202
        assert (await it.send(reply, session, VERSION)).status == 202
        assert (await the_next(answer.stream))["result"] == {"roots": []}
        await answer.stream.aclose()


async def test_two_lines_for_one_answer_are_one_answer() -> None:
    async with world(programs()) as it:
        session = await it.session()
        assert result(await it.send(call("two"), session, VERSION)) == {"n": 1}
        assert result(await it.send(request("x"), session, VERSION))["lines"] == 3


async def test_a_carriage_return_cannot_end_an_events_line() -> None:
    async with world(programs()) as it:
        session = await it.session()
        answer = await it.send(call("carriage"), session, VERSION)
    assert answer.body is not None
    assert b"\r" not in answer.body
    assert result(answer) == {"n": 1}


@pytest.mark.parametrize("how", ["huge", "endless"])
@pytest.mark.parametrize("meta", [{}, MODERN])
async def test_a_line_over_the_limit_ends_the_call_and_the_process(
    how: str, meta: dict[str, Any]
) -> None:
    async with world(programs()) as it:
        headers = () if meta else (await it.session(), VERSION)
        answer = await it.send(call(how, **meta), *headers)
        assert (answer.fate, answer.reason) == (Fate.ANSWERED, "answer_too_large")
        if not meta:
            assert (await it.send(request("x"), *headers)).status == 404
        else:
            assert result(await it.send(request("x", _meta=MODERN)))["lines"] == 1


@pytest.mark.parametrize("meta", [{}, MODERN])
async def test_who_dies_answers_nothing_and_is_asked_only_once(meta: dict[str, Any]) -> None:
    async with world(programs()) as it:
        headers = () if meta else (await it.session(), VERSION)
        answer = await it.send(call("dies", **meta), *headers)
        assert (answer.fate, answer.reason) == (Fate.UNKNOWN, "upstream_error")


async def test_silence_begins_a_stream_and_who_hangs_up_cancels() -> None:
    async with world(programs(), answer_seconds=0.05) as it:
        answer = await it.send(call("silent", **MODERN))
        assert answer.stream is not None
        assert dict(answer.headers)[b"content-type"] == b"text/event-stream"
        await answer.stream.aclose()


async def test_what_refuses_at_the_last_moment_leaves_nothing_written() -> None:
    def refuse() -> None:
        raise Refused("emergency_stop")

    async with world(programs()) as it:
        body = orjson.dumps(call("echo", **MODERN))
        with pytest.raises(Refused):
            await it.upstreams.forward(a_permit(it.server, a_request(body)), refuse)
        assert result(await it.send(request("x", _meta=MODERN)))["lines"] == 1


async def test_the_last_check_comes_after_the_process_has_started() -> None:
    async with world(programs()) as it:
        body = orjson.dumps(call("echo", **MODERN))
        seen: list[int] = []

        def look() -> None:
            route = it.upstreams.route(it.server)
            seen.append(len(route.client._children))  # type: ignore[attr-defined]

        await it.upstreams.forward(a_permit(it.server, a_request(body)), look)
    assert seen == [1]


async def test_a_program_that_ends_at_once_is_started_ever_more_rarely() -> None:
    async with world(programs("dies"), back_off_seconds=1.0) as it:
        first = await it.send(call("echo", **MODERN))
        # It may be gone before the call is written to it.
        assert first.reason in ("upstream_error", "upstream_unreachable")
        door = it.upstreams.route(it.server).client
        for _ in range(3):
            door._count(spoke=False)  # type: ignore[attr-defined]
        second = await it.send(call("echo", **MODERN))
        assert (second.fate, second.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")


async def test_sessions_are_limited() -> None:
    async with world(programs(processes=1)) as it:
        await it.session()
        answer = await it.send(request("initialize"))
        assert (answer.fate, answer.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")


async def test_a_session_that_nobody_uses_ends() -> None:
    async with world(programs(), idle_seconds=0.05) as it:
        session = await it.session()
        door = it.upstreams.route(it.server).client
        await asyncio.wait_for(asyncio.gather(*door._children), 30)  # type: ignore[attr-defined]
        assert (await it.send(request("x"), session, VERSION)).status == 404


@pytest.mark.parametrize("how", ["isolated", "unsafe"])
async def test_the_sdks_server_is_scanned(how: str, tmp_path: Path) -> None:
    of = sdk_programs(tmp_path) if how == "isolated" else programs(script="sdk.py")
    async with world(of) as it:
        walked = await scan(it.upstreams, it.server)
    assert walked.complete
    assert walked.protocol_version == "2026-07-28"
    assert "add" in {definition["name"] for definition in walked.definitions}


async def test_a_program_of_the_legacy_era_is_scanned_though_it_ignores_the_modern_greeting() -> (
    None
):
    async with world(programs("silent"), discover_seconds=0.2) as it:
        walked = await scan(it.upstreams, it.server)
    assert walked.protocol_version == "2025-11-25"


def sdk_programs(folder: Path, **settings: Any) -> Programs:
    needs("bwrap", "apt-get install bubblewrap")
    path = a_file(folder, read=[sys.prefix, sys.base_prefix, str(HERE)])
    read = read_programs(Settings(data_dir=folder / "data", stdio_servers=path, **settings))
    if read.bwrap is None:
        pytest.skip("bubblewrap cannot be used here")
    return read


def a_file(folder: Path, **entry: Any) -> Path:
    path = folder / "stdio.yaml"
    base = {"command": sys.executable, "args": [str(HERE / "sdk.py")]}
    path.write_bytes(orjson.dumps({"servers": {"files": {**base, **entry}}}))
    return path


async def test_an_isolated_program_sees_neither_the_data_nor_other_processes(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with world(sdk_programs(tmp_path)) as it:

        async def ask(tool: str, **arguments: Any) -> Any:
            message = request("tools/call", name=tool, arguments=arguments, _meta=MODERN)
            return result(await it.send(message))["structuredContent"]["result"]

        assert await ask("exists", path=str(data)) is False
        assert await ask("exists", path=str(HERE)) is True
        assert await ask("processes") <= 3
        names = await ask("environment")
    assert {"PATH", "HOME", "TMPDIR", "LANG"} <= set(names)
    assert not [name for name in names if name.startswith("GATEWAY_")]


@pytest.mark.skipif(shutil.which("true") is None, reason="no program to name")
async def test_without_isolation_nothing_starts_unless_the_operator_says_so() -> None:
    of = replace(programs(), unsafe=False)
    assert of.warnings()["stdio"].startswith("refused")
    assert programs().warnings()["stdio"].startswith("GATEWAY_STDIO_UNSAFE")
    async with world(of) as it:
        answer = await it.send(request("initialize"))
        assert (answer.fate, answer.reason) == (Fate.NOT_FORWARDED, "upstream_unreachable")


@pytest.mark.parametrize(("named", "runs"), [(["other", "acme"], True), (["other"], False)])
async def test_an_entry_serves_the_projects_that_the_operator_names(
    tmp_path: Path, named: list[str], runs: bool
) -> None:
    path = a_file(tmp_path, projects=named)
    read = read_programs(Settings(data_dir=tmp_path / "data", stdio_servers=path))
    async with world(replace(read, bwrap=None, unsafe=True)) as it:
        answer = await it.send(request("tools/list", _meta=MODERN))
    assert (answer.reason == "") == runs
    assert (answer.fate is Fate.NOT_FORWARDED) != runs


async def test_a_secret_is_found_by_reference_and_no_answer_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FILES_TOKEN", "a-very-secret-token")
    path = a_file(tmp_path, env={"TOKEN": "${env:FILES_TOKEN}"})
    read = read_programs(Settings(data_dir=tmp_path / "data", stdio_servers=path))
    async with world(replace(read, bwrap=None, unsafe=True)) as it:
        message = request("tools/call", name="token", arguments={}, _meta=MODERN)
        answer = await it.send(message)
    assert answer.reason == "answer_withheld"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"command": "python"}, "should match pattern"),
        ({"command": "/no/such/program"}, "no program"),
        ({"env": {"GATEWAY_ADMIN_KEY": "x"}}, "the gateway's own"),
        ({"env": {"KEY": "${env:GATEWAY_ADMIN_KEY}"}}, "no server's"),
        ({"env": {"KEY": "${env:NOT_SET_ANYWHERE}"}}, "has no NOT_SET_ANYWHERE"),
        ({"env": {"KEY": "file:/no/such/file"}}, "cannot read the secret"),
        ({"read": ["/"]}, "data folder"),
        ({"write": ["/no/such/folder"]}, "there is no"),
        ({"shell": True}, "Extra inputs"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, entry: dict[str, Any], why: str
) -> None:
    settings = Settings(data_dir=tmp_path / "data", stdio_servers=a_file(tmp_path, **entry))
    with pytest.raises(SettingsFault, match=why):
        read_programs(settings)
