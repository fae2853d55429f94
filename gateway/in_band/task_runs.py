"""Carries out calls that were kept as tasks, once a person has approved them.

Each gateway looks for such tasks and claims them in the database, so one of them makes the call,
through the whole pipeline. What is durable: the claim, before anything is asked; the call's
decision, before it is sent; its result, before its client sees it.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass, field, replace

import structlog
from cryptography.exceptions import InvalidTag
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from gateway.clock import after
from gateway.frozen import frozen
from gateway.ids import new_id
from gateway.in_band.tasks import Kept, open_request, seal_result
from gateway.mcp.lossless import Unreadable, read_json
from gateway.mcp.sse import data_of, response_in
from gateway.mcp.strictness import BadMessage
from gateway.mcp.tasks import upstreams_task
from gateway.pipeline import Pipeline
from gateway.refusals import REASONS, Unauthenticated
from gateway.registry import tasks
from gateway.registry.core import Actor, Registry
from gateway.registry.tasks import End
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.values import Answer, CallId, Json, KeyId, ProjectId

LOOK_SECONDS = 1.0
LEASE_SECONDS = 15.0
OURS_SECONDS = 8.0
"""Less than the lease, by more than a permit lasts: who was held up does not send after all."""
AT_ONCE = 32

_UNKNOWN = "The gateway ended while it carried out the call; whether it ran is not known."
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Run:
    ours_until: float
    task: asyncio.Task[None] | None = None
    cancelled: bool = False

    def gone(self) -> bool:
        return self.cancelled or time.monotonic() >= self.ours_until


@frozen
class TaskRuns:
    pipeline: Pipeline
    registry: Registry
    lease_seconds: float = LEASE_SECONDS
    _owner: str = field(default_factory=lambda: secrets.token_hex(8))
    _running: dict[str, _Run] = field(default_factory=dict)

    async def run(self) -> None:
        """For as long as the gateway runs."""
        while True:
            changes = self.registry.changes
            await self.once()
            await self.registry.changed(changes, LOOK_SECONDS)

    async def once(self) -> None:
        """Hold on to what runs, and begin what is due."""
        try:
            await self._renew()
            now = self.registry.clock.now()
            for row in await self.registry.read(lambda c: tasks.due(c, now, AT_ONCE)):
                if row.state == "RUNNING":
                    await self._take_over(row)
                elif len(self._running) < AT_ONCE:
                    await self._claim(row)
        except (SQLAlchemyError, WriterStopped) as fault:
            _log.error("tasks cannot be looked after", why=fault_text(fault))

    async def _renew(self) -> None:
        if not self._running:
            return
        began = time.monotonic()
        until = after(self.registry.clock.now(), self.lease_seconds)
        ours = list(self._running)
        held = await self.registry.writer.change(lambda c: tasks.renew(c, self._owner, ours, until))
        for task_id in ours:
            run = self._running.get(task_id)
            if run is None:
                continue
            if task_id in held:
                run.ours_until = began + OURS_SECONDS
            elif not run.cancelled:
                # Stopped or cancelled. In the modern era closing is how the server is told.
                run.cancelled = True
                if run.task is not None:
                    run.task.cancel()

    async def _take_over(self, row: Row[object]) -> None:
        error = {
            "code": REASONS["upstream_error"].code,
            "message": _UNKNOWN,
            "data": {"reason_code": "outcome_unknown", "retryable": False, "trace_id": row.call_id},
        }
        keyring = self.registry.keyring
        unknown = End("FAILED", _UNKNOWN, seal_result(keyring, row.id, {"error": error}))
        now = self.registry.clock.now()
        await self.registry.writer.change(lambda c: tasks.take_over(c, row, now, unknown))

    async def _claim(self, row: Row[object]) -> None:
        began = time.monotonic()
        call_id = CallId(new_id("trc"))
        until = after(self.registry.clock.now(), self.lease_seconds)
        claimed = await self.registry.writer.change(
            lambda c: tasks.claim(c, row, self._owner, call_id, until)
        )
        if claimed is None:
            return
        run = self._running[row.id] = _Run(began + OURS_SECONDS)
        run.task = asyncio.create_task(self._carry_out(claimed, run))
        # Shutting down waits for it, as for every call.
        self.pipeline.running.add(run.task)
        run.task.add_done_callback(self.pipeline.running.discard)

    async def _carry_out(self, row: Row[object], run: _Run) -> None:
        try:
            ended = await self._made(row, run)
            now = self.registry.clock.now
            await self.registry.change(
                Actor.gateway(ProjectId(row.project_id)),
                lambda ch: tasks.end(ch.connection, row.id, self._owner, ended, now()),
            )
        except (SQLAlchemyError, WriterStopped) as fault:
            # The lease runs out, and the task ends as one of unknown outcome.
            _log.error("a task's result cannot be kept", task=row.id, why=fault_text(fault))
        finally:
            del self._running[row.id]

    async def _made(self, row: Row[object], run: _Run) -> End:
        keyring = self.registry.keyring
        try:
            request = replace(open_request(keyring, row), gone=run.gone)
        except InvalidTag:
            return End("CANCELLED", "What was asked cannot be opened any more; ask again.")
        kept = Kept(
            row.id, ProjectId(row.project_id), KeyId(row.key_id), CallId(row.call_id), request
        )
        try:
            answer = await self.pipeline.carry_out(kept)
        except (Unauthenticated, BadMessage) as fault:
            return End("CANCELLED", f"The call may not be made any more: {fault.message}")
        message = _message(await _response(answer, request.body))
        return _ending(message, seal_result(keyring, row.id, message))


async def _response(answer: Answer, body: bytes) -> bytes:
    """The one message of an answer that answers the call."""
    if answer.stream is None:
        return answer.body
    rpc_id = read_json(body)["id"]
    try:
        async for event in answer.stream:
            data = data_of(event)
            if data and response_in(data, rpc_id):
                return data
    finally:
        await answer.stream.aclose()
    return b""


def _message(body: bytes) -> dict[str, Json]:
    """``{"result": …}`` or ``{"error": …}``, whatever came."""
    try:
        found = read_json(body)
    except Unreadable:
        found = None
    if isinstance(found, dict):
        result = found.get("result")
        if isinstance(result, dict) and not _asks_nothing(result):
            return {"result": result}
        if isinstance(found.get("error"), dict):
            return {"error": found["error"]}
    row = REASONS["upstream_error"]
    data = {"reason_code": "upstream_error", "retryable": False}
    return {"error": {"code": row.code, "message": row.message, "data": data}}


def _ending(message: dict[str, Json], sealed: bytes) -> End:
    error = message.get("error")
    if error is not None:
        return End("FAILED", str(error.get("message", "")), sealed)
    result = message["result"]
    if upstreams_task(result) is not None:
        return End("HANDED_ON", "Approved; its server works on it.", sealed)
    if result.get("resultType") == "input_required":
        return End("ASKING", "The tool asks for input.", sealed)
    return End("COMPLETED", "Approved and carried out.", sealed)


def _asks_nothing(result: dict[str, Json]) -> bool:
    """A server that wants the call again later, and no input, says nothing that a task can be."""
    asks = result.get("resultType") == "input_required"
    return asks and not isinstance(result.get("inputRequests"), dict)
