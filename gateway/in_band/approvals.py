"""The agent's side of an approval, within the protocol that it speaks.

A call that waits for a person is answered by what its client declared: with a task that the
gateway carries out itself, with the page on which the call is approved and a state that comes back
with the retry (2026-07-28, `input_required`), with an error that names the page (2025-11-25,
-32042), or with plain -31004. Where calls are held, the answer is kept open until a person has
decided, and then the call is asked about anew.
"""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway import answers
from gateway.flows import ByteStream
from gateway.in_band.tasks import OwnTasks
from gateway.mcp.continuations import Continuations, as_event, progress_event
from gateway.mcp.declared import capabilities, shows_pages, takes_tasks
from gateway.mcp.envelope import Message, RequestMessage
from gateway.mcp.headers import value_of
from gateway.mcp.sse import data_of, error_event, with_data
from gateway.mcp.tasks import advertised
from gateway.refusals import REASONS, Refused
from gateway.registry import approvals
from gateway.registry.core import Actor, Change, Registry
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.values import Answer, Call, Era, Permit, ProjectId

RETRY_SECONDS = 20.0
"""How long a retry waits for the decision: clients retry at once, and ten times at most."""
KEEP_ALIVE_SECONDS = 5.0
LOOK_SECONDS = 1.0
"""How often it is looked for what other gateways decided."""
URL_ELICITATION_REQUIRED = -32042
_WAITING = frozenset({"approval_required", "approval_expired"})

_log = structlog.get_logger(__name__)

Again = Callable[[], Awaitable[Answer]]


class InBand:
    """``hold_seconds``: how long a call is held open for its decision; 0 holds none.

    ``retry_seconds``: how long a retry is, at least.
    """

    def __init__(
        self,
        continuations: Continuations,
        tasks: OwnTasks,
        registry: Registry,
        public_url: str,
        hold_seconds: float,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self.continuations = continuations
        self._registry = registry
        self._public_url = public_url
        self._hold_seconds = hold_seconds
        self._retry_seconds = retry_seconds
        self.tasks = tasks
        self.holding: Counter[str] = Counter()
        """Requests that are held open here, by the approval that each waits for."""
        self._closing = False

    def close(self) -> None:
        """Held calls end as ones that still wait."""
        self._closing = True
        self.tasks.close()

    def met(self, message: Message | None, answer: Answer) -> Answer:
        """The answer to what is no tool call, which tells a client that takes tasks of ours."""
        if not isinstance(message, RequestMessage) or message.method != "server/discover":
            return answer
        if not takes_tasks(capabilities(message.params)):
            return answer
        if answer.stream is None:
            return replace(answer, body=advertised(answer.body))
        return replace(answer, stream=_rewritten(answer.stream, b"capabilities", advertised))

    async def answer(
        self, call: Call, refused: Refused, trace_id: str, again: Again | None
    ) -> Answer:
        """What a refused call is told; ``again`` makes the same call anew, None: do not wait."""
        told = answers.refused_call(call, refused, trace_id)
        if refused.reason not in _WAITING:
            return told
        if call.of_task is not None:
            await self.tasks.wait_again(call.of_task, refused, call.caller)
            return told
        if self.tasks.takes(call) and (begun := await self.tasks.begin(call, refused)) is not None:
            return replace(told, body=begun)
        told = replace(told, body=self._asked(call, refused, trace_id) or told.body)
        seconds = max(self._hold_seconds, self._retry_seconds if call.is_retry else 0.0)
        takes_events = b"text/event-stream" in value_of(call.request.headers, b"accept")
        if again is None or seconds == 0 or not takes_events:
            return told
        headers = tuple(h for h in told.headers if h[0] != b"content-type")
        held = _Held(self, call, str(refused.data["approval_id"]))
        held.events = self._held(held, told, seconds, again)
        return Answer(200, headers + answers.EVENT_HEADERS, stream=held)

    def carry(self, permit: Permit, answer: Answer) -> Answer:
        """The answer to a call under a grant: where it asks for input, the retry goes on under
        the same grant."""
        grant = permit.grant
        if grant is None or permit.call.era is not Era.MODERN:
            return answer
        caller = permit.call.caller
        if answer.stream is not None:
            under = partial(self.continuations.under, caller, grant)
            return replace(answer, stream=_rewritten(answer.stream, b"input_required", under))
        return replace(answer, body=self.continuations.under(caller, grant, answer.body))

    def _asked(self, call: Call, refused: Refused, trace_id: str) -> bytes | None:
        """The answer that sends a person to the page, where the client can show one."""
        approval_id = str(refused.data["approval_id"])
        page = {
            "mode": "url",
            "url": f"{self._public_url}/dashboard/approvals/{approval_id}",
            "elicitationId": approval_id,
            "message": f"{REASONS['approval_required'].message} An approver signs in on this page, "
            "sees the whole call, and decides; approving sends exactly this call, once. Opening "
            "the page approves nothing.",
        }
        data = answers.error_data(refused, trace_id)
        if call.era is Era.LEGACY:
            if not call.request.shows_pages:
                return None
            error = {
                "code": URL_ELICITATION_REQUIRED,
                "message": refused.message,
                "data": {"elicitations": [page], **data},
            }
            return orjson.dumps({"jsonrpc": "2.0", "id": call.rpc_id, "error": error})
        if not shows_pages(capabilities(call.params)):
            return None
        result = {
            "resultType": "input_required",
            "inputRequests": {"approval": {"method": "elicitation/create", "params": page}},
            "requestState": self.continuations.asking(call.caller, approval_id, call.params),
            "_meta": {answers.META_KEY: data},
        }
        return orjson.dumps({"jsonrpc": "2.0", "id": call.rpc_id, "result": result})

    async def _held(
        self, held: "_Held", told: Answer, seconds: float, again: Again
    ) -> AsyncGenerator[bytes, None]:
        steps = 1
        call = held.call
        yield _sign_of_life(call, steps)
        ends = time.monotonic() + seconds
        while True:
            seen = self._registry.changes
            if not await self._pending(call.caller.project.id, held.approval_id):
                break
            if self._closing or time.monotonic() >= ends:
                held.over = True
                yield as_event(told.body)
                return
            quiet = time.monotonic() + KEEP_ALIVE_SECONDS
            while self._registry.changes == seen and time.monotonic() < min(quiet, ends):
                await self._registry.changed(seen, LOOK_SECONDS)
                if self._closing or not await self._pending(
                    call.caller.project.id, held.approval_id
                ):
                    break
            steps += 1
            yield _sign_of_life(call, steps)
        held.over = True
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

    async def left(self, call: Call, approval_id: str) -> None:
        """The client of a held call hung up, which in the modern era is how it cancels: nobody
        has to decide any more. In the legacy era it may come back and ask again."""
        if call.era is Era.LEGACY or self._closing:
            return
        caller = call.caller

        def abandon(change: Change) -> None:
            row = approvals.get(change.connection, caller.project.id, approval_id)
            # Who asked before, and polls, waits still.
            if call.is_retry or row.trace_id == call.id:
                approvals.abandon(change, approval_id, "its client hung up")

        try:
            await self._registry.change(Actor.of(caller.key), abandon)
        except (SQLAlchemyError, WriterStopped) as fault:
            _log.error("an abandoned approval stays", approval=approval_id, why=fault_text(fault))


class _Held:
    """The stream of a call that waits: closed before its approval was decided, it was abandoned."""

    def __init__(self, in_band: InBand, call: Call, approval_id: str) -> None:
        self.call = call
        self.approval_id = approval_id
        self.over = False
        self.events: AsyncGenerator[bytes, None]
        self._in_band = in_band
        self._closed = False
        in_band.holding[approval_id] += 1

    def __aiter__(self) -> "_Held":
        return self

    async def __anext__(self) -> bytes:
        return await self.events.__anext__()

    async def aclose(self) -> None:
        await self.events.aclose()
        if self._closed:
            return
        self._closed = True
        holding = self._in_band.holding
        holding[self.approval_id] -= 1
        if holding[self.approval_id] > 0:
            return  # the same call is held for another request still
        del holding[self.approval_id]
        if not self.over:
            await self._in_band.left(self.call, self.approval_id)


async def _rewritten(
    stream: ByteStream, mark: bytes, rewrite: Callable[[bytes], bytes]
) -> AsyncGenerator[bytes, None]:
    """A stream whose messages are rewritten where the mark stands in them."""
    try:
        async for event in stream:
            data = data_of(event) if mark in event else b""
            written = rewrite(data) if data else data
            yield event if written == data else with_data(event, written)
    finally:
        await stream.aclose()


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
