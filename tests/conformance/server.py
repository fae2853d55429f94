"""An MCP server with everything that the official conformance suite asks of one.

Run as a script: it prints its port, and speaks both eras at ``/mcp`` on 127.0.0.1.
"""

import asyncio
import base64
import socket
from collections.abc import Mapping
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ClientCapabilities,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    JSONRPCMessage,
    ListRootsRequest,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
SILENCE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class Events(EventStore):
    """Every event of every stream, for clients that come back."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._kept.append((stream_id, message))
        return str(len(self._kept))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str:
        seen = int(last_event_id)
        stream, _ = self._kept[seen - 1]
        for number, (of, message) in enumerate(self._kept[seen:], seen + 1):
            if of == stream and message is not None:  # None primes a stream, and is no message
                await send_callback(EventMessage(message, str(number)))
        return stream


mcp = MCPServer("conformance-fixture", version="1.0.0", log_level="ERROR")


# --- what tools may answer ---


@mcp.tool()
def test_simple_text() -> str:
    """Plain text."""
    return "This is a simple text response for testing."


@mcp.tool(structured_output=False)
def test_image_content() -> ImageContent:
    """A picture of one pixel."""
    return ImageContent(type="image", data=PIXEL, mime_type="image/png")


@mcp.tool(structured_output=False)
def test_audio_content() -> AudioContent:
    """No sound at all."""
    return AudioContent(type="audio", data=SILENCE, mime_type="audio/wav")


def embedded(uri: str, kind: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(
        type="resource", resource=TextResourceContents(uri=uri, mime_type=kind, text=text)
    )


@mcp.tool(structured_output=False)
def test_embedded_resource() -> EmbeddedResource:
    """A resource within the answer."""
    text = "This is an embedded resource content."
    return embedded("test://embedded-resource", "text/plain", text)


@mcp.tool(structured_output=False)
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Several kinds of content in one answer."""
    return [
        TextContent(type="text", text="Multiple content types test:"),
        ImageContent(type="image", data=PIXEL, mime_type="image/png"),
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":1}'),
    ]


@mcp.tool()
async def test_tool_with_logging(ctx: Context) -> str:
    """Three log messages, one after the other."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(message)
        await asyncio.sleep(0.05)
    return "Tool with logging executed successfully"


@mcp.tool()
async def test_logging_tool(ctx: Context) -> str:
    """Logs only for who asked for a level."""
    await ctx.info("one message")
    return "logged"


@mcp.tool()
async def test_tool_with_progress(ctx: Context) -> str:
    """Progress in three steps."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"{done} of 100")
        await asyncio.sleep(0.05)
    return "done"


@mcp.tool()
def test_error_handling() -> str:
    """Always fails."""
    raise RuntimeError("This tool intentionally returns an error for testing")


@mcp.tool()
async def test_reconnection(ctx: Context) -> str:
    """Ends its stream in the middle: the client comes back for the rest."""
    await asyncio.sleep(0.1)  # by then the event that primes the stream is out
    await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return "Reconnection test completed"


@mcp.tool()
def json_schema_2020_12_tool() -> str:
    """Has a schema of every newer keyword."""
    return "ok"


@mcp.tool()
def test_x_mcp_header(region: str, priority: int) -> str:
    """Its arguments are headers too."""
    return f"{region} {priority}"


# --- requests of the server to its client, while a call runs ---


@mcp.tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    """Asks the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message(messages=[message], max_tokens=100)
    return f"LLM response: {getattr(answer.content, 'text', '')}"


class Answers(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = Field(default="John Doe")
    age: int = Field(default=30)
    score: float = Field(default=95.5)
    status: str = Field(
        default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]}
    )
    verified: bool = Field(default=True)


def _titled(keyword: str, *titles: str) -> dict[str, Any]:
    choices = [{"const": f"value{n}", "title": title} for n, title in enumerate(titles, 1)]
    return {keyword: choices}


THREE: list[Any] = ["option1", "option2", "option3"]
TITLES = ("First Option", "Second Option", "Third Option")


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": THREE})
    titledSingle: str = Field(json_schema_extra=_titled("oneOf", *TITLES))
    legacyEnum: str = Field(
        json_schema_extra={"enum": ["opt1", "opt2", "opt3"], "enumNames": [*TITLES]}
    )
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": THREE}})
    titledMulti: list[str] = Field(json_schema_extra={"items": _titled("anyOf", *TITLES)})


async def _elicited(ctx: Context, message: str, schema: type[BaseModel]) -> str:
    result = await ctx.elicit(message=message, schema=schema)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"action={result.action}, content={content}"


@mcp.tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    """Asks the user."""
    return f"User response: {await _elicited(ctx, message, Answers)}"


@mcp.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Asks with a default for each primitive type."""
    return f"Elicitation completed: {await _elicited(ctx, 'Who are you?', Defaults)}"


@mcp.tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Asks with each kind of choice."""
    return f"Elicitation completed: {await _elicited(ctx, 'Choose', Choices)}"


# --- input that is asked for in the answer (SEP-2322) ---


def _ask(message: str, name: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str, tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[message], max_tokens=tokens)
    )


def _needs(state: str | None = None, **requests: Any) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def _given(ctx: Context, name: str) -> Any:
    responses: Mapping[str, Any] = ctx.input_responses or {}
    return responses.get(name)


def _content(response: Any) -> Mapping[str, Any]:
    return getattr(response, "content", None) or {}


@mcp.tool(structured_output=False)
def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Needs a name."""
    name = _content(_given(ctx, "user_name")).get("name")
    if not isinstance(name, str):
        return _needs(user_name=_ask("What is your name?", "name"))
    return f"Hello, {name}!"


@mcp.tool(structured_output=False)
def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's model."""
    answer = _given(ctx, "capital_question")
    if answer is None:
        return _needs(capital_question=_sample("What is the capital of France?", 100))
    return str(getattr(answer.content, "text", ""))


@mcp.tool(structured_output=False)
def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's roots."""
    answer = _given(ctx, "client_roots")
    if answer is None:
        return _needs(client_roots=ListRootsRequest())
    return "roots: " + ", ".join(str(root.uri) for root in answer.roots)


@mcp.tool(structured_output=False)
def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Needs its own state back."""
    if _given(ctx, "confirm") is None:
        return _needs("mine", confirm=_ask("Please confirm", "ok", "boolean"))
    return "state-ok" if ctx.request_state == "mine" else "state-missing"


@mcp.tool(structured_output=False)
def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """Its state is sealed by the SDK, which refuses another."""
    if ctx.request_state is None:
        return _needs("mine", confirm=_ask("Please confirm", "ok", "boolean"))
    return "state-ok"


@mcp.tool(structured_output=False)
def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Needs three things at once."""
    if any(_given(ctx, name) is None for name in ("user_name", "greeting", "client_roots")):
        return _needs(
            "mine",
            user_name=_ask("What is your name?", "name"),
            greeting=_sample("Generate a greeting", 50),
            client_roots=ListRootsRequest(),
        )
    return "all given"


@mcp.tool(structured_output=False)
def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Needs one thing after the other."""
    if ctx.request_state is None or ctx.input_responses is None:
        return _needs("round-1", step1=_ask("Step 1: What is your name?", "name"))
    if ctx.request_state == "round-1":
        return _needs("round-2", step2=_ask("Step 2: What is your favorite color?", "color"))
    return "both given"


@mcp.tool(structured_output=False)
def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Asks only for what the client can do."""
    can = ctx.client_capabilities
    requests: dict[str, Any] = {}
    if can is not None and can.sampling is not None:
        requests["question"] = _sample("What is the capital of France?", 100)
    if can is not None and can.elicitation is not None:
        requests["user_name"] = _ask("What is your name?", "name")
    if not requests or ctx.input_responses is not None:
        return "nothing needed"
    return InputRequiredResult(input_requests=requests)


@mcp.tool(structured_output=False)
def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Never sends a request of its own on the stream."""
    if _given(ctx, "confirm") is None:
        return _needs(confirm=_ask("Please confirm", "ok", "boolean"))
    return "confirmed"


@mcp.tool()
def test_missing_capability(ctx: Context) -> str:
    """Cannot go on without sampling."""
    can = ctx.client_capabilities
    if can is None or can.sampling is None:
        needed = ClientCapabilities(sampling=SamplingCapability())
        data = MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="sampling is needed",
            data=data.model_dump(by_alias=True, mode="json", exclude_none=True),
        )
    return "capable"


# --- lists that change ---


@mcp.tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    """Tells subscribers that the tools have changed."""
    await ctx.notify_tools_changed()
    return "changed"


@mcp.tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    """Tells subscribers that the prompts have changed."""
    await ctx.notify_prompts_changed()
    return "changed"


# --- resources, prompts, completion ---


@mcp.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@mcp.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(PIXEL)


@mcp.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    return "Watched resource content"


@mcp.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'


def _said(content: Any) -> UserMessage:
    return UserMessage(content=content)


def _text(text: str) -> UserMessage:
    return _said(TextContent(type="text", text=text))


@mcp.prompt()
def test_simple_prompt() -> list[UserMessage]:
    """No arguments."""
    return [_text("This is a simple prompt for testing.")]


@mcp.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """Two arguments."""
    return [_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]


@mcp.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A resource within."""
    held = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [_said(held), _text("Please process the embedded resource above.")]


@mcp.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """A picture within."""
    picture = ImageContent(type="image", data=PIXEL, mime_type="image/png")
    return [_said(picture), _text("Please analyze the image above.")]


@mcp.prompt()
def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """Needs a context."""
    given = _content(_given(ctx, "user_context")).get("context")
    if given is None:
        return _needs(user_context=_ask("What context should the prompt use?", "context"))
    return [_text(f"In the context of {given}")]


async def complete(ref: Any, argument: Any, context: Any) -> Completion:
    found = [word for word in ("paris", "park", "party") if word.startswith(argument.value)]
    return Completion(values=found, total=len(found), has_more=False)


async def _accept(ctx: Any, params: Any) -> EmptyResult:
    return EmptyResult()


def _finish() -> None:
    """What the decorators have no word for."""
    server = mcp._lowlevel_server
    completion: Any = mcp.completion  # it has no types
    completion()(complete)
    server.add_request_handler("logging/setLevel", SetLevelRequestParams, _accept)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, _accept)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, _accept)
    tools = mcp._tool_manager
    schema_tool = tools.get_tool("json_schema_2020_12_tool")
    header_tool = tools.get_tool("test_x_mcp_header")
    assert schema_tool is not None
    assert header_tool is not None
    schema_tool.parameters = SCHEMA_2020_12
    header_tool.parameters["properties"]["region"]["x-mcp-header"] = "Region"
    header_tool.parameters["properties"]["priority"]["x-mcp-header"] = "Priority"


_finish()


def main() -> None:
    # h11, because httptools leaves the blanks after a header's value, which RFC 9110 5.5 takes off.
    app = mcp.streamable_http_app(event_store=Events(), retry_interval=100)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        server = uvicorn.Server(uvicorn.Config(app, http="h11", log_level="error"))
        server.run(sockets=[sock])


if __name__ == "__main__":
    main()
