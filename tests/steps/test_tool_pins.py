"""The tool is the one that an administrator accepted, or the call is refused."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.refusals import Refused
from gateway.steps.tool_pins import ToolPins
from gateway.values import Call, Cleared, Era, Pinned
from tests.builders import TOOL, World, a_call, a_request, a_state


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_state(tmp_path_factory.mktemp("data")) as world:
        yield world


def match(world: World, name: str = TOOL, arguments: object = None) -> Pinned:
    call = a_call(caller=world.caller, tool_name=name, arguments=arguments or {"object": "Lead"})
    return ToolPins(world.state.directory).match(Cleared(call, 0))


def reason(world: World, name: str = TOOL, arguments: object = None) -> str:
    with pytest.raises(Refused) as caught:
        match(world, name, arguments)
    return caught.value.reason


def test_an_accepted_tool_passes(world: World) -> None:
    assert match(world).tool == world.tool


@pytest.mark.parametrize(
    ("pin", "refused"),
    [
        ("PENDING", "tool_pending"),
        ("CHANGED", "tool_changed"),
        ("SUSPECT", "tool_changed"),
        ("GONE", "tool_gone"),
    ],
)
@pytest.mark.parametrize("unknown_tools", ["deny", "ask", "allow"])
def test_a_tool_that_is_not_accepted_is_refused_whatever_unknown_ones_may(
    world: World, pin: str, refused: str, unknown_tools: str
) -> None:
    world.set("tools", "tol_1", pin=pin)
    world.set("projects", "prj_1", unknown_tools=unknown_tools)
    assert reason(world) == refused


def test_only_a_changed_tool_passes_where_changes_only_alert(world: World) -> None:
    world.set("projects", "prj_1", on_tool_change="alert")
    world.set("tools", "tol_1", pin="CHANGED")
    assert match(world).tool is not None
    for pin in ("PENDING", "SUSPECT", "GONE"):
        world.set("tools", "tol_1", pin=pin)
        reason(world)


@pytest.mark.parametrize(
    ("unknown_tools", "must_ask"), [("deny", None), ("ask", True), ("allow", False)]
)
def test_an_unknown_tool_is_what_the_project_says(
    world: World, unknown_tools: str, must_ask: bool | None
) -> None:
    world.set("projects", "prj_1", unknown_tools=unknown_tools)
    if must_ask is None:
        assert reason(world, "other") == "unknown_tool"
    else:
        assert (match(world, "other").tool, match(world, "other").must_ask) == (None, must_ask)


@pytest.mark.parametrize("name", ["Query_Records", "query_records\x00", "ｑuery_records"])
def test_a_name_that_only_folds_to_a_known_one_is_always_unknown(world: World, name: str) -> None:
    world.set("projects", "prj_1", unknown_tools="allow")
    assert reason(world, name) == "unknown_tool"


def test_a_name_that_not_every_database_stores_is_always_unknown(world: World) -> None:
    """What is asked of a person, such as an approval, would keep it as text."""
    for unknown_tools in ("ask", "allow"):
        world.set("projects", "prj_1", unknown_tools=unknown_tools)
        assert reason(world, "other\x00") == "unknown_tool"


def test_arguments_are_held_to_the_accepted_schema(world: World) -> None:
    assert reason(world, arguments={"object": ["Lead"]}) == "invalid_arguments"


WITH_A_HEADER = orjson.dumps(
    {
        "name": TOOL,
        "inputSchema": {
            "type": "object",
            "properties": {"object": {"type": "string", "x-mcp-header": "Object"}},
        },
    }
).decode()


def sent(world: World, *headers: tuple[bytes, bytes], **changes: Any) -> Call:
    request = a_request(headers=headers)
    return a_call(**{"caller": world.caller, "era": Era.MODERN, "request": request, **changes})


def test_headers_must_repeat_the_arguments_that_the_accepted_schema_says(world: World) -> None:
    world.set("tools", "tol_1", accepted=WITH_A_HEADER, accepted_sha256="f" * 64)
    pins = ToolPins(world.state.directory)
    pins.match(Cleared(sent(world, (b"mcp-param-object", b"Account")), 0))
    for headers in ((), ((b"mcp-param-object", b"Lead"),)):
        with pytest.raises(Refused) as refused:
            pins.match(Cleared(sent(world, *headers), 0))
        assert refused.value.reason == "header_mismatch"


def test_headers_that_no_one_can_know_are_left_to_the_server(world: World) -> None:
    pins = ToolPins(world.state.directory)
    lies = ((b"mcp-param-object", b"Lead"),)
    pins.match(Cleared(sent(world, *lies), 0))
    world.set("tools", "tol_1", accepted=WITH_A_HEADER, accepted_sha256="f" * 64)
    pins.match(Cleared(sent(world, *lies, era=Era.LEGACY), 0))
    pins.match(Cleared(sent(world, *lies, source="decide"), 0))
    world.set("projects", "prj_1", on_tool_change="alert")
    world.set("tools", "tol_1", pin="CHANGED")
    pins.match(Cleared(sent(world, *lies), 0))
