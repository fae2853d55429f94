"""What is said besides tool calls, held to policy on its way: requests, answers, questions.

A server may ask its client for something: in the legacy era by a request on a stream, in the modern
era by `inputRequests` in a result. A question that policy denies does not reach the client. The
legacy server is told so and its stream goes on; the modern one's result is withheld.
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson
import structlog

from gateway.flows import EventStream
from gateway.mcp.envelope import ClientResponse, Message, RequestMessage
from gateway.mcp.lossless import Unreadable, read_json
from gateway.mcp.sifted import SiftedEvents
from gateway.mcp.sse import without_data
from gateway.mcp.upstream import Upstreams
from gateway.refusals import REASONS, Refused
from gateway.steps.methods import RESPONSE, Exchange, Methods, Said
from gateway.values import Caller, Era, Fate, Forwarded, Json, Request

_log = structlog.get_logger(__name__)

_QUESTION_MARKS = (b'"method"', b"inputRequests", b"\\u")


class _Withheld(Exception):
    """A result may not go on; the text is the reason, a key of `REASONS`."""


def exchange_of(caller: Caller, request: Request, message: Message | None) -> Exchange:
    """``message`` is None for GET and DELETE."""
    if message is None:
        return Exchange(caller, request, Era.LEGACY, request.method, None, None)
    method = RESPONSE if isinstance(message, ClientResponse) else message.method
    rpc_id = message.id if isinstance(message, RequestMessage) else None
    return Exchange(caller, request, message.era, method, message.session, rpc_id)


class Conversation:
    def __init__(self, methods: Methods, upstreams: Upstreams) -> None:
        self._methods = methods
        self._upstreams = upstreams

    async def say(self, caller: Caller, request: Request, message: Message | None) -> Request:
        """What may be sent on of a client's message. Raises `Refused`."""
        if message is None or not self._methods.any():
            return request
        if isinstance(message, RequestMessage):
            exchange = exchange_of(caller, request, message)
            await self._methods.check(exchange, Said(message.method, "client", message.params))
        elif isinstance(message, ClientResponse):
            exchange = exchange_of(caller, request, message)
            return await self._answer(exchange, message)
        return request

    async def hear(self, exchange: Exchange, forwarded: Forwarded) -> Forwarded:
        """What may be passed on of an upstream's answer."""
        if not self._methods.any() or forwarded.reason:
            return forwarded
        if forwarded.stream is not None:
            return replace(forwarded, stream=HeardEvents(self, exchange, forwarded.stream))
        try:
            await self.judge(exchange, forwarded.body or b"")
        except _Withheld as withheld:
            return Forwarded(Fate.ANSWERED, forwarded.status, reason=str(withheld))
        return forwarded

    async def judge(self, exchange: Exchange, data: bytes) -> bool:
        """Whether an upstream's message may pass; False: it is left out, and the upstream told.

        Raises `_Withheld` for a result.
        """
        if not any(mark in data for mark in _QUESTION_MARKS):
            return True
        try:
            message = read_json(data)
        except Unreadable:
            raise _Withheld("answer_unreadable") from None
        if isinstance(message, list):
            # Batches: no server sends them since 2025-06-18, and a part cannot be left out.
            raise _Withheld("answer_unreadable")
        if not isinstance(message, Mapping):
            return True
        if isinstance(message.get("method"), str):
            return await self._heard(exchange, message)
        result = message.get("result")
        if isinstance(result, Mapping) and not await self._may_ask(exchange, result):
            raise _Withheld("question_denied")
        return True

    async def _heard(self, exchange: Exchange, message: Mapping[str, Json]) -> bool:
        params = _object(message.get("params"))
        if "id" not in message:
            return await self._may_ask(exchange, params)
        if await self._may(exchange, message["method"], params):
            return True
        if isinstance(message["id"], str | int):
            self._upstreams.tell(exchange.caller, exchange.request, _denial(message["id"]))
        return False

    async def _may_ask(self, exchange: Exchange, holder: Mapping[str, Json]) -> bool:
        """Whether every one of a result's or task's `inputRequests` may reach the client."""
        for question in _object(holder.get("inputRequests")).values():
            method, params = _object(question).get("method"), _object(question).get("params")
            if isinstance(method, str) and not await self._may(exchange, method, _object(params)):
                return False
        return True

    async def _may(self, exchange: Exchange, method: str, params: Mapping[str, Json]) -> bool:
        try:
            await self._methods.check(exchange, Said(method, "server", params))
        except Refused as refused:
            _log.warning("a server's request is withheld", method=method, why=refused.reason)
            return False
        return True

    async def _answer(self, exchange: Exchange, message: ClientResponse) -> Request:
        """A client's answer; one that is denied becomes an error, or its server waits for ever."""
        root = read_json(exchange.request.body)
        params = {key: root[key] for key in ("result", "error") if key in root}
        try:
            await self._methods.check(exchange, Said(RESPONSE, "client", params))
        except Refused as refused:
            _log.warning("a client's answer is withheld", why=refused.reason)
            return replace(exchange.request, body=_denial(message.id))
        return exchange.request


class HeardEvents(SiftedEvents):
    """An `EventStream` without the requests that a server may not make of its client."""

    def __init__(self, conversation: Conversation, exchange: Exchange, events: EventStream) -> None:
        super().__init__(events, exchange.rpc_id)
        self._conversation = conversation
        self._exchange = exchange

    async def _sift(self, raw: bytes) -> bytes:
        try:
            if await self._conversation.judge(self._exchange, self._data):
                return raw
        except _Withheld as withheld:
            return await self._stop(str(withheld))
        # An id without data moves a reader's place in the stream, and tells it nothing.
        self._data = b""
        return without_data(raw)


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _denial(rpc_id: str | int) -> bytes:
    """What the side that waits for an answer is told instead of one."""
    row = REASONS["policy_denied"]
    error = {"code": row.code, "message": row.message, "data": {"reason_code": "policy_denied"}}
    return orjson.dumps({"jsonrpc": "2.0", "id": rpc_id, "error": error})
