"""What is said besides tool calls, in both directions, before policies for some of the methods."""

from typing import Any

import orjson
import pytest

from gateway.flows import Ended
from gateway.mcp.conversation import Conversation, exchange_of
from gateway.mcp.envelope import parse
from gateway.mcp.upstream import Upstreams
from gateway.refusals import Refused
from gateway.steps.methods import Exchange, Methods, Said
from gateway.values import Caller, Fate, Forwarded, Request
from tests.mcp.builders import HANDLES, a_caller, a_request, a_server

pytestmark = pytest.mark.anyio

ME = a_caller(a_server(1))
ELICIT = {"jsonrpc": "2.0", "id": "s1", "method": "elicitation/create", "params": {"message": "?"}}


class FakeMethods(Methods):
    """Denies what is in `denied`, and keeps what it was asked."""

    def __init__(self, *denied: str, policies: bool = True) -> None:
        self.denied = denied
        self.policies = policies
        self.asked: list[Said] = []

    def any(self) -> bool:
        return self.policies

    async def check(self, exchange: Exchange, said: Said) -> None:
        self.asked.append(said)
        if said.method in self.denied:
            raise Refused("policy_denied")


class FakeUpstreams(Upstreams):
    def __init__(self) -> None:
        super().__init__(HANDLES)
        self.told: list[Any] = []

    def tell(self, caller: Caller, request: Request, body: bytes) -> None:
        self.told.append(orjson.loads(body))


class Events:
    """A stream of these events' data; bytes pass as they are."""

    def __init__(self, *said: Any) -> None:
        self.left = list(said)
        self.data = self.response = b""
        self.ended: Ended = ""

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        self.data = orjson.dumps(said) if not isinstance(said := self.left.pop(0), bytes) else said
        return b"id: 7\nevent: message\ndata: " + self.data + b"\n\n"

    async def aclose(self) -> None:
        self.ended = "closed"


def a_conversation(*denied: str, policies: bool = True) -> tuple[Conversation, FakeUpstreams]:
    upstreams = FakeUpstreams()
    return Conversation(FakeMethods(*denied, policies=policies), upstreams), upstreams


def methods_of(conversation: Conversation) -> list[Said]:
    methods = conversation._methods
    assert isinstance(methods, FakeMethods)
    return methods.asked


async def say(conversation: Conversation, body: dict[str, Any]) -> Request:
    request = a_request(orjson.dumps({"jsonrpc": "2.0", **body}))
    return await conversation.say(ME, request, parse(request.body, request.headers))


def an_exchange() -> Exchange:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add"}}
    request = a_request(orjson.dumps(body))
    return exchange_of(ME, request, parse(request.body, request.headers))


async def hear(conversation: Conversation, *said: Any) -> tuple[list[bytes], Events]:
    events = Events(*said)
    forwarded = Forwarded(Fate.ANSWERED, 200, stream=events)
    heard = await conversation.hear(an_exchange(), forwarded)
    assert heard.stream is not None
    return [event async for event in heard.stream], events


async def hear_body(conversation: Conversation, message: dict[str, Any]) -> Forwarded:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, **message})
    return await conversation.hear(an_exchange(), Forwarded(Fate.ANSWERED, 200, body=body))


async def test_a_request_is_asked_about_and_a_denied_one_is_refused() -> None:
    conversation, _ = a_conversation("resources/read")
    with pytest.raises(Refused):
        await say(
            conversation, {"id": 1, "method": "resources/read", "params": {"uri": "file:///a"}}
        )
    await say(conversation, {"id": 1, "method": "prompts/get", "params": {"name": "a"}})
    assert methods_of(conversation) == [
        Said("resources/read", "client", {"uri": "file:///a"}),
        Said("prompts/get", "client", {"name": "a"}),
    ]


async def test_an_answer_that_is_denied_reaches_the_server_as_an_error() -> None:
    conversation, _ = a_conversation("response")
    request = await say(conversation, {"id": "s1", "result": {"action": "accept"}})
    sent = orjson.loads(request.body)
    assert (sent["id"], sent["error"]["code"]) == ("s1", -31003)
    assert methods_of(conversation) == [
        Said("response", "client", {"result": {"action": "accept"}}),
    ]


async def test_without_policies_nothing_is_parsed_nor_wrapped() -> None:
    conversation, _ = a_conversation(policies=False)
    forwarded = Forwarded(Fate.ANSWERED, 200, stream=Events())
    assert await conversation.hear(an_exchange(), forwarded) is forwarded
    request = await say(conversation, {"id": 1, "method": "ping"})
    assert request.body == b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    assert methods_of(conversation) == []


async def test_a_denied_question_is_answered_upstream_and_the_stream_goes_on() -> None:
    conversation, upstreams = a_conversation("elicitation/create")
    result = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
    said, events = await hear(conversation, ELICIT, result)
    assert said == [
        b"id: 7\n\n",
        b"id: 7\nevent: message\ndata: " + orjson.dumps(result) + b"\n\n",
    ]
    ((told),) = upstreams.told
    assert (told["id"], told["error"]["code"]) == ("s1", -31003)
    assert events.ended == ""


async def test_a_question_that_is_allowed_passes_as_it_came() -> None:
    conversation, upstreams = a_conversation("sampling/createMessage")
    said, _ = await hear(conversation, ELICIT)
    assert said == [b"id: 7\nevent: message\ndata: " + orjson.dumps(ELICIT) + b"\n\n"]
    assert upstreams.told == []


QUESTIONS = {"inputRequests": {"a": {"method": "elicitation/create", "params": {"mode": "url"}}}}


async def test_a_result_that_asks_what_is_denied_is_withheld() -> None:
    conversation, _ = a_conversation("elicitation/create")
    message = {"result": {"resultType": "input_required", **QUESTIONS}}
    assert (await hear_body(conversation, message)).reason == "question_denied"
    said, events = await hear(conversation, {"jsonrpc": "2.0", "id": 1, **message}, ELICIT)
    error = orjson.loads(said[0].partition(b"data: ")[2])
    assert (error["id"], error["error"]["code"]) == (1, -31009)
    assert len(said) == 1
    assert events.ended == "closed"


async def test_a_tasks_notification_that_asks_what_is_denied_is_left_out() -> None:
    conversation, _ = a_conversation("elicitation/create")
    news = {"jsonrpc": "2.0", "method": "notifications/tasks", "params": QUESTIONS}
    said, _ = await hear(conversation, news)
    assert said == [b"id: 7\n\n"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"method":"elicitation/create","method":"ping","id":1}',
        b'[{"jsonrpc":"2.0","id":1,"method":"elicitation/create"}]',
        b'{"\\u006dethod":',
    ],
)
async def test_what_cannot_be_judged_does_not_pass(data: bytes) -> None:
    conversation, _ = a_conversation()
    said, events = await hear(conversation, data)
    assert orjson.loads(said[0].partition(b"data: ")[2])["error"]["code"] == -31009
    assert events.ended == "closed"


async def test_a_question_in_another_spelling_is_seen() -> None:
    conversation, upstreams = a_conversation("elicitation/create")
    spelt = orjson.dumps(ELICIT).replace(b"method", b"\\u006dethod")
    await hear(conversation, spelt)
    assert len(upstreams.told) == 1
