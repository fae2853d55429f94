"""The gateway's own tasks as clients see them, in the shapes of both eras. Pure.

2026-07-28: the extension `io.modelcontextprotocol/tasks`. 2025-11-25: the experimental tasks of
"basic/utilities/tasks".
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from gateway.frozen import frozen
from gateway.mcp.declared import TASKS
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.values import Era, Json

METHODS: Final = frozenset(
    {"tasks/get", "tasks/result", "tasks/update", "tasks/cancel"},
)
POLL_MS: Final = 2000
OVER: Final = frozenset({"completed", "failed", "cancelled"})
_RELATED: Final = "io.modelcontextprotocol/related-task"


@frozen
class Task:
    """``id`` as its client has it. One of the last three is set, by what the status says."""

    id: str
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    message: str
    created_at: str
    updated_at: str
    ttl_ms: int
    result: Mapping[str, Json] | None = None
    error: Mapping[str, Json] | None = None
    questions: Mapping[str, Json] | None = None


def created(task: Task, era: Era) -> dict[str, Any]:
    """`CreateTaskResult`."""
    if era is Era.LEGACY:
        return {"task": _fields(task, era)}
    return {"resultType": "task", **_fields(task, era)}


def seen(task: Task, era: Era) -> dict[str, Any]:
    """`GetTaskResult`."""
    told = _fields(task, era)
    if era is Era.LEGACY:
        return told
    told["resultType"] = "complete"
    if task.status == "completed":
        told["result"] = task.result
    elif task.status == "failed":
        told["error"] = task.error
    elif task.status == "input_required":
        told["inputRequests"] = task.questions
    return told


def payload(task: Task, rpc_id: str | int) -> bytes:
    """The answer to `tasks/result` of a task that is over: what the call itself was answered."""
    if task.result is not None:
        meta = {**(task.result.get("_meta") or {}), _RELATED: {"taskId": task.id}}
        return message(rpc_id, {**task.result, "_meta": meta})
    error = task.error or {"code": -32602, "message": task.message}
    return write_json({"jsonrpc": "2.0", "id": rpc_id, "error": error})


def message(rpc_id: str | int, result: Mapping[str, Json]) -> bytes:
    return write_json({"jsonrpc": "2.0", "id": rpc_id, "result": result})


def acknowledged(rpc_id: str | int) -> bytes:
    """The answer of the modern era to `tasks/update` and `tasks/cancel`."""
    return message(rpc_id, {"resultType": "complete"})


def upstreams_task(result: Mapping[str, Json]) -> str | None:
    """The id of a task that the server itself made of the call, or None."""
    if result.get("resultType") == "task":
        return _text(result.get("taskId"))
    task = result.get("task")
    if isinstance(task, Mapping) and "content" not in result:
        return _text(task.get("taskId"))
    return None


def question_key(round_: int, key: str) -> str:
    """Keys are unique over a task's life, and a server may use one again in its next round."""
    return f"{round_}.{key}"


def advertised(body: bytes) -> bytes:
    """The answer to `server/discover`, for a client that takes tasks: it may get one here."""
    try:
        found = read_json(body)
    except Unreadable:
        return body
    result = found.get("result") if isinstance(found, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
        return body
    capabilities = result["capabilities"]
    extensions = capabilities.get("extensions") or {}
    if not isinstance(extensions, dict) or TASKS in extensions:
        return body
    offered = {**capabilities, "extensions": {**extensions, TASKS: {}}}
    told = {**result, "capabilities": offered}
    if "cacheScope" in result:  # other clients are told as the server said it
        told["cacheScope"] = "private"
    return write_json({**found, "result": told})


def _fields(task: Task, era: Era) -> dict[str, Any]:
    unit = "Ms" if era is Era.MODERN else ""
    return {
        "taskId": task.id,
        "status": task.status,
        "statusMessage": task.message,
        "createdAt": task.created_at,
        "lastUpdatedAt": task.updated_at,
        f"ttl{unit}": task.ttl_ms,
        f"pollInterval{unit}": POLL_MS,
    }


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None
