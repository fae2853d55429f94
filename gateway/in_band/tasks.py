"""Tasks of the gateway's own: a call that waits for a person, kept until it is carried out.

For a client that declares tasks. Its task's id is sealed for project, key and server, as every
name that it is given; what was asked and what came of it is kept encrypted.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import structlog
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from gateway import answers
from gateway.clock import seconds_between
from gateway.frozen import frozen
from gateway.keyring import Keyring, decrypt, encrypt
from gateway.mcp import tasks as shapes
from gateway.mcp.continuations import as_event
from gateway.mcp.declared import TASKS, capabilities, takes_tasks
from gateway.mcp.envelope import RequestMessage
from gateway.mcp.headers import to_upstream, value_of
from gateway.mcp.lossless import read_json, write_json
from gateway.mcp.seals import Seals
from gateway.mcp.strictness import BadMessage
from gateway.mcp.tasks import Task
from gateway.refusals import Refused
from gateway.registry import approvals, tasks
from gateway.registry.core import Actor, Change, Registry
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text
from gateway.values import Answer, Call, Caller, CallId, Era, Json, KeyId, ProjectId, Request

LOOK_SECONDS = 1.0
SILENT_LOOKS = 5
_WAITS = "A person must approve this call"
_STATUS: Mapping[str, Any] = {
    "ASKING": "input_required",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}

_log = structlog.get_logger(__name__)


@frozen
class Kept:
    """A task whose call is to be made now."""

    task_id: str
    project_id: ProjectId
    key_id: KeyId
    call_id: CallId
    request: Request


@frozen
class Onward:
    """What is asked of a task whose server has one of its own: the question for that one."""

    request: Request
    message: RequestMessage
    own: bytes
    theirs: bytes

    def renamed(self, answer: Answer) -> Answer:
        """The answer, as one about the task that the client knows. Ids stand in JSON as they are:
        they are base64url."""
        if answer.stream is None:
            return replace(answer, body=answer.body.replace(self.theirs, self.own))
        return replace(answer, stream=self._events(answer.stream))

    async def _events(self, stream: Any) -> AsyncGenerator[bytes, None]:
        try:
            async for event in stream:
                yield event.replace(self.theirs, self.own)
        finally:
            await stream.aclose()


class OwnTasks:
    def __init__(self, registry: Registry, seals: Seals, public_url: str) -> None:
        self._registry = registry
        self._seals = seals
        self._public_url = public_url
        self._closing = False

    def close(self) -> None:
        """Whoever waits for a result waits no longer; the tasks go on."""
        self._closing = True

    # --- a call becomes a task ---

    def takes(self, call: Call) -> bool:
        """Whether the client takes a task for an answer."""
        if call.source != "mcp":
            return False
        if call.era is Era.LEGACY:
            return call.task is not None
        return takes_tasks(capabilities(call.params))

    async def begin(self, call: Call, refused: Refused) -> bytes | None:
        """Keep a call that waits; its client is told once that is durable. None: it cannot be."""
        caller = call.caller
        approval_id = str(refused.data["approval_id"])
        task_id = tasks.new_task_id()
        new = tasks.NewTask(
            id=task_id,
            project_id=caller.project.id,
            key_id=caller.key.id,
            server_id=caller.server.id,
            approval_id=approval_id,
            approval_expires_at=str(refused.data["expires_at"]),
            trace_id=call.id,
            request_sealed=seal_request(self._registry.keyring, task_id, call.sent or call.request),
            told=f"{_WAITS}: {self._public_url}/dashboard/approvals/{approval_id}",
        )
        try:
            row = await self._registry.change(
                Actor.of(caller.key), lambda ch: tasks.begin(ch.connection, new, ch.now)
            )
        except (SQLAlchemyError, WriterStopped) as fault:
            _log.error("a call that waits cannot be kept", call=call.id, why=fault_text(fault))
            return None
        task = self._shown(caller, row, "working", row.told)
        return shapes.message(call.rpc_id, shapes.created(task, call.era))

    async def wait_again(self, task_id: str, refused: Refused, caller: Caller) -> None:
        """A task that was carried out met the wish for another approval, and waits for it."""
        approval_id, expires_at = refused.data["approval_id"], refused.data["expires_at"]
        await self._registry.change(
            Actor.of(caller.key),
            lambda ch: tasks.wait_again(ch.connection, task_id, approval_id, expires_at, ch.now),
        )

    # --- what a client asks of its task ---

    def named(self, caller: Caller, message: RequestMessage) -> str | None:
        """The task that a message is about, if it is one of ours; None for the upstream's."""
        named = message.params.get("taskId")
        if not isinstance(named, str) or not self._seals.opens(
            "task of ours", caller, named.encode()
        ):
            return None
        return self._seals.open("task of ours", caller, named.encode()).decode()

    async def find(self, caller: Caller, task_id: str) -> Row[Any] | None:
        now = self._registry.clock.now()
        return await self._registry.read(lambda c: tasks.find(c, caller.project.id, task_id, now))

    def onward(
        self, caller: Caller, request: Request, message: RequestMessage, row: Row[Any] | None
    ) -> Onward | None:
        """The message to the server's own task, where there is one by now."""
        if row is None or row.state != "HANDED_ON":
            return None
        theirs = shapes.upstreams_task(self._result(row)["result"])
        assert theirs is not None
        params = {**message.params, "taskId": theirs}
        body = write_json({**read_json(request.body), "params": params})
        own = str(message.params["taskId"]).encode()
        moved = replace(message, params=params)
        return Onward(replace(request, body=body), moved, own, theirs.encode())

    async def answer(
        self, caller: Caller, request: Request, message: RequestMessage, row: Row[Any] | None
    ) -> Answer:
        if message.era is Era.MODERN and not takes_tasks(capabilities(message.params)):
            data: dict[str, Any] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
            return answers.rpc_error(
                400, message.id, -32021, "Missing required client capability.", data
            )
        if row is None:
            return _no_task(message, "There is no such task, or its time is over.")
        task = self.task(caller, row)
        match message.method:
            case "tasks/get":
                return answers.told(shapes.message(message.id, shapes.seen(task, message.era)))
            case "tasks/cancel":
                return await self._cancel(caller, message, row, task)
            case "tasks/update":
                return await self._update(caller, message, row, task)
            case _:
                return await self._payload(caller, request, message, row)

    def task(self, caller: Caller, row: Row[Any]) -> Task:
        """A task as it stands now: an approval's expiry is seen when it is read."""
        if row.state == "WAITING":
            status = approvals.status_of(
                row.approval_state,
                row.approval_spent_by,
                row.approval_expires_at,
                self._registry.clock.now(),
            )
            if status in ("DENIED", "EXPIRED"):
                refused = Refused("approval_denied" if status == "DENIED" else "approval_expired")
                data = answers.error_data(refused, row.trace_id)
                error = {"code": refused.code, "message": refused.message, "data": data}
                return replace(self._shown(caller, row, "failed", refused.message), error=error)
        status = _STATUS.get(row.state, "working")
        task = self._shown(caller, row, status, row.told)
        if row.state == "ASKING":
            asked = self._result(row)["result"]["inputRequests"]
            keyed = {shapes.question_key(row.round, key): one for key, one in asked.items()}
            return replace(task, questions=keyed)
        if row.state in ("COMPLETED", "FAILED"):
            kept = self._result(row)
            return replace(task, result=kept.get("result"), error=kept.get("error"))
        return task

    async def _cancel(
        self, caller: Caller, message: RequestMessage, row: Row[Any], task: Task
    ) -> Answer:
        if task.status in shapes.OVER:
            if message.era is Era.LEGACY:
                return _no_task(message, f"The task is {task.status} already.")
            return answers.told(shapes.acknowledged(message.id))
        why = "The client cancelled it."

        def cancel(change: Change) -> None:
            if tasks.cancel(change.connection, tasks.is_task(row.id), why, change.now):
                approvals.abandon(change, row.approval_id, "its task was cancelled")

        await self._registry.change(Actor.of(caller.key), cancel)
        if message.era is Era.MODERN:
            return answers.told(shapes.acknowledged(message.id))
        cancelled = replace(task, status="cancelled", message=why)
        return answers.told(shapes.message(message.id, shapes.seen(cancelled, message.era)))

    async def _update(
        self, caller: Caller, message: RequestMessage, row: Row[Any], task: Task
    ) -> Answer:
        """The answers to what its tool asks: the call goes on with them, under its approval."""
        given = message.params.get("inputResponses")
        if not isinstance(given, Mapping):
            return _no_task(message, "params.inputResponses must be an object.")
        if task.questions is None:  # it asks nothing now: answers that come late are passed over
            return answers.told(shapes.acknowledged(message.id))
        missing = sorted(task.questions.keys() - given.keys())
        if missing:
            return _no_task(message, f"Answer all that is asked; {missing[0]} is missing.")
        prefix = len(shapes.question_key(row.round, ""))
        responses = {key[prefix:]: given[key] for key in task.questions}
        keyring = self._registry.keyring
        going_on = _going_on(
            open_request(keyring, row), responses, self._result(row)["result"].get("requestState")
        )
        sealed = seal_request(keyring, row.id, going_on)
        await self._registry.change(
            Actor.of(caller.key), lambda ch: tasks.answered(ch.connection, row, sealed, ch.now)
        )
        return answers.told(shapes.acknowledged(message.id))

    async def _payload(
        self, caller: Caller, request: Request, message: RequestMessage, row: Row[Any]
    ) -> Answer:
        task = self.task(caller, row)
        if task.status in shapes.OVER:
            return answers.told(shapes.payload(task, message.id))
        if b"text/event-stream" not in value_of(request.headers, b"accept"):
            return _no_task(message, "The task is not over; ask with tasks/get when it is.")
        return answers.streamed(self._until_over(caller, message, row.id))

    async def _until_over(
        self, caller: Caller, message: RequestMessage, task_id: str
    ) -> AsyncGenerator[bytes, None]:
        yield b": the task is not over\n\n"
        looks = 0
        while not self._closing:
            changes = self._registry.changes
            row = await self.find(caller, task_id)
            if row is None:
                yield as_event(_no_task(message, "The task's time is over.").body)
                return
            task = self.task(caller, row)
            if task.status in shapes.OVER:
                yield as_event(shapes.payload(task, message.id))
                return
            await self._registry.changed(changes, LOOK_SECONDS)
            looks += 1
            if looks % SILENT_LOOKS == 0:
                yield b": the task is not over\n\n"

    def _shown(self, caller: Caller, row: Row[Any], status: Any, message: str) -> Task:
        ttl = int(seconds_between(row.created_at, row.expires_at) * 1000)
        sealed = self._seals.seal("task of ours", caller, row.id.encode()).decode()
        return Task(sealed, status, message, row.created_at, row.updated_at, ttl)

    def _result(self, row: Row[Any]) -> dict[str, Json]:
        kept: dict[str, Json] = read_json(open_result(self._registry.keyring, row))
        return kept


# --- what is kept, sealed for its task ---


def seal_request(keyring: Keyring, task_id: str, request: Request) -> bytes:
    """What of a request makes the call again: no credential, nothing of the connection."""
    headers = to_upstream(request.headers, Era.MODERN)  # whether they cross is asked again then
    headers += [header for header in request.headers if header[0] == b"x-agent-id"]
    kept = {
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers],
        "body": request.body.decode(),
        "client_ip": request.client_ip,
        "server_id": request.server_id,
    }
    return encrypt(keyring.data, orjson.dumps(kept), task_id.encode())


def open_request(keyring: Keyring, row: Row[Any]) -> Request:
    kept = orjson.loads(decrypt(keyring.data, row.request_sealed, row.id.encode()))
    return Request(
        method="POST",
        server_id=kept["server_id"],
        headers=tuple(
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in kept["headers"]
        ),
        body=kept["body"].encode(),
        client_ip=kept["client_ip"],
        gone=lambda: False,
    )


def seal_result(keyring: Keyring, task_id: str, message: Mapping[str, Json]) -> bytes:
    """``{"result": …}`` or ``{"error": …}`` as the call was answered."""
    return encrypt(keyring.data, write_json(dict(message)), f"{task_id}/result".encode())


def open_result(keyring: Keyring, row: Row[Any]) -> bytes:
    return decrypt(keyring.data, row.result_sealed, f"{row.id}/result".encode())


def _going_on(request: Request, responses: Mapping[str, Json], state: Json) -> Request:
    message = read_json(request.body)
    params = {key: value for key, value in message["params"].items() if key != "requestState"}
    params["inputResponses"] = responses
    if state is not None:
        params["requestState"] = state
    return replace(request, body=write_json({**message, "params": params}))


def _no_task(message: RequestMessage, why: str) -> Answer:
    return answers.bad_message(BadMessage(200, -32602, why, message.id))
