"""The agent's side of an approval, within the protocol that it speaks.

A call that waits for a person is answered by what its client declared: with the page on which the
call is approved and a state that comes back with the retry (2026-07-28, `input_required`), with an
error that names the page (2025-11-25, -32042), or with plain -31004. Where calls are held, the
answer is kept open until a person has decided, and then the call is asked about anew.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway import answers
from gateway.flows import ByteStream
from gateway.mcp.continuations import Continuations, as_event, progress_event
from gateway.mcp.envelope import Message, RequestMessage
from gateway.mcp.headers import value_of
from gateway.mcp.sse import data_of, error_event, with_data
from gateway.refusals import REASONS, Refused
from gateway.registry import approvals
from gateway.registry.core import Registry
from gateway.rounds import Continuation
from gateway.values import Answer, Call, Caller, Era, Json, Permit, ProjectId

RETRY_SECONDS = 20.0
"""How long a retry waits for the decision: clients retry at once, and ten times at most."""
KEEP_ALIVE_SECONDS = 5.0
LOOK_SECONDS = 1.0
"""How often it is looked for what other gateways decided."""
URL_ELICITATION_REQUIRED = -32042
_WAITING = frozenset({"approval_required", "approval_expired"})
_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_SESSIONS = 10_000

Again = Callable[[], Awaitable[Answer]]


class InBand:
    """``hold_seconds``: how long a call is held open for its decision; 0 holds none."""

    def __init__(
        self,
        continuations: Continuations,
        registry: Registry,
        public_url: str,
        hold_seconds: float,
    ) -> None:
        self.continuations = continuations
        self._registry = registry
        self._public_url = public_url
        self._hold_seconds = hold_seconds
        self._closing = False
        self._shows_pages: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def close(self) -> None:
        """Held calls end as ones that still wait."""
        self._closing = True

    def met(self, caller: Caller, message: Message | None, answer: Answer) -> None:
        """Keep in mind what a client of the legacy era declared when its session began.

        Forgotten by a restart; the session's calls are then answered with plain -31004.
        """
        if not isinstance(message, RequestMessage) or message.method != "initialize":
            return
        session = value_of(answer.headers, b"mcp-session-id")
        if session and _shows_pages(message.params.get("capabilities")):
            self._shows_pages[caller.key.id, session] = None
            if len(self._shows_pages) > _SESSIONS:
                self._shows_pages.popitem(last=False)

    def answer(self, call: Call, refused: Refused, trace_id: str, again: Again | None) -> Answer:
        """What a refused call is told; ``again`` makes the same call anew, None: do not wait."""
        told = answers.refused_call(call, refused, trace_id)
        if refused.reason not in _WAITING:
            return told
        told = replace(told, body=self._asked(call, refused, trace_id) or told.body)
        seconds = max(self._hold_seconds, RETRY_SECONDS if call.is_retry else 0.0)
        takes_events = b"text/event-stream" in value_of(call.request.headers, b"accept")
        if again is None or seconds == 0 or not takes_events:
            return told
        headers = tuple(h for h in told.headers if h[0] != b"content-type")
        headers += (
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        )
        events = self._held(call, str(refused.data["approval_id"]), told, seconds, again)
        return Answer(200, headers, stream=events)

    def carry(self, permit: Permit, answer: Answer) -> Answer:
        """The answer to a call under a grant: where it asks for input, the retry goes on under
        the same grant."""
        grant = permit.grant
        if grant is None or permit.call.era is not Era.MODERN:
            return answer
        caller = permit.call.caller
        if answer.stream is not None:
            return replace(answer, stream=self._carried(caller, grant, answer.stream))
        return replace(answer, body=self.continuations.under(caller, grant, answer.body))

    def _asked(self, call: Call, refused: Refused, trace_id: str) -> bytes | None:
        """The answer that sends a person to the page, where the client can show one."""
        approval_id = str(refused.data["approval_id"])
        page = {
            "mode": "url",
            "url": f"{self._public_url}/dashboard/approvals/{approval_id}",
            "elicitationId": approval_id,
            "message": f"{REASONS['approval_required'].message} An approver signs in on this page, "
            "sees the whole call, and decides; opening it approves nothing.",
        }
        data = answers.error_data(refused, trace_id)
        if call.era is Era.LEGACY:
            if (call.caller.key.id, (call.session or "").encode()) not in self._shows_pages:
                return None
            error = {
                "code": URL_ELICITATION_REQUIRED,
                "message": refused.message,
                "data": {"elicitations": [page], **data},
            }
            return orjson.dumps({"jsonrpc": "2.0", "id": call.rpc_id, "error": error})
        if not _shows_pages(_declared(call)):
            return None
        result = {
            "resultType": "input_required",
            "inputRequests": {"approval": {"method": "elicitation/create", "params": page}},
            "requestState": self.continuations.asking(call.caller, approval_id, call.params),
            "_meta": {answers.META_KEY: data},
        }
        return orjson.dumps({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})

    async def _held(
        self, call: Call, approval_id: str, told: Answer, seconds: float, again: Again
    ) -> AsyncGenerator[bytes, None]:
        steps = 1
        yield _sign_of_life(call, steps)
        ends = time.monotonic() + seconds
        while True:
            seen = self._registry.changes
            if not await self._pending(call.caller.project.id, approval_id):
                break
            if self._closing or time.monotonic() >= ends:
                yield as_event(told.body)
                return
            quiet = time.monotonic() + KEEP_ALIVE_SECONDS
            while self._registry.changes == seen and time.monotonic() < min(quiet, ends):
                await self._registry.changed(seen, LOOK_SECONDS)
                if self._closing or not await self._pending(call.caller.project.id, approval_id):
                    break
            steps += 1
            yield _sign_of_life(call, steps)
        answer = await again()
        if answer.stream is None:
            yield as_event(_message(call, answer))
            return
        try:
            async for event in answer.stream:
                yield event
        finally:
            await answer.stream.aclose()

    async def _pending(self, project_id: ProjectId, approval_id: str) -> bool:
        row = await self._registry.read(lambda c: approvals.get(c, project_id, approval_id))
        return approvals.effective_status(row, self._registry.clock.now()) == "PENDING"

    async def _carried(
        self, caller: Caller, grant: Continuation, stream: ByteStream
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for event in stream:
                data = data_of(event) if b"input_required" in event else b""
                under = self.continuations.under(caller, grant, data)
                yield event if under == data else with_data(event, under)
        finally:
            await stream.aclose()


def _declared(call: Call) -> Json:
    meta = call.params.get("_meta")
    return meta.get(_CAPABILITIES) if isinstance(meta, Mapping) else None


def _shows_pages(capabilities: Json) -> bool:
    """Whether a client declares elicitation by URL."""
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, Mapping) else None
    return isinstance(elicitation, Mapping) and isinstance(elicitation.get("url"), Mapping)


def _sign_of_life(call: Call, step: int) -> bytes:
    meta = call.params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, Mapping) else None
    if token is None:
        return b": waiting for a person\n\n"
    return progress_event(token, step, "Waiting for a person to approve the call.")


def _message(call: Call, answer: Answer) -> bytes:
    """A whole answer as a message on a stream, whose status has been sent already."""
    if answer.status == 200 and answer.body.lstrip()[:1] == b"{":
        return answer.body
    row = REASONS["upstream_error"]
    data: dict[str, Any] = {"reason_code": "upstream_error", "retryable": False}
    return data_of(error_event(call.rpc_id, row.code, row.message, data))
