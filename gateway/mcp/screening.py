"""Response policies: every message of a server's is asked about, where a policy wants to see it.

`data.gateway.response` says what is to be withheld, blackened or labelled. Whatever cannot be
read, or cannot be asked about, is withheld too: the call was made, its answer does not pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import orjson
import structlog

from gateway.flows import EventStream
from gateway.frozen import frozen
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.mcp.redaction import Asked, Unredactable, redact
from gateway.mcp.sifted import SiftedEvents, told
from gateway.mcp.sse import fields_only, with_data
from gateway.mcp.strictness import BadMessage, check_values
from gateway.policy.engine import LARGEST_QUESTION, Engine, EngineFault
from gateway.policy.features import Route
from gateway.policy.risk import as_sent
from gateway.refusals import Refused
from gateway.telemetry.logs import fault_text
from gateway.values import Caller, Enforcement, Json, Tool

_log = structlog.get_logger(__name__)

_DOCUMENT: Final = b"gateway/response"
_PARTS: Final = {"result", "error", "params"}
_MEMBERS: Final = {"jsonrpc", "id", "method", *_PARTS}

Routes = Callable[[], frozenset[Route] | None]
"""`gateway.policy.features.Features.responses` of the bundle that decides."""


@frozen
class About:
    """What is known of a message before it is read. Without a tool, all tools' policies see it."""

    caller: Caller
    tool_name: str | None = None
    tool: Tool | None = None
    method: str | None = None


@frozen
class Screened:
    """A message as it may pass; with `reason` it may not."""

    message: bytes = b""
    reason: str = ""
    """A key of `gateway.refusals.REASONS`."""
    labels: tuple[str, ...] = ()
    policy_ids: tuple[str, ...] = ()
    redacted: bool = False
    would_withhold: bool = False
    """Only monitoring kept it from being withheld."""


@dataclass(slots=True)
class Notes:
    """What was found in the messages of one answer, for its record."""

    reason: str = ""
    labels: set[str] = field(default_factory=set)
    policy_ids: set[str] = field(default_factory=set)
    redacted: bool = False

    def add(self, screened: Screened) -> None:
        self.reason = self.reason or screened.reason
        self.labels.update(screened.labels)
        self.policy_ids.update(screened.policy_ids)
        self.redacted = self.redacted or screened.redacted


class Screening:
    def __init__(self, engine: Engine, routes: Routes, now: Callable[[], str]) -> None:
        self._engine = engine
        self._routes = routes
        self._now = now

    def covers(self, about: About) -> bool:
        """Whether a policy would see any message of these; costs next to nothing when none does."""
        routes = self._routes()
        if routes is None:
            return True
        if not routes:
            return False
        caller = about.caller
        return any(
            kind == "all"
            or (kind == "project" and name == caller.project.slug)
            or (kind == "server" and name == caller.server.slug)
            or (kind == "agent" and caller.agent is not None and name == caller.agent.name)
            or (kind == "tool" and about.tool_name in (None, name))
            for kind, name in routes
        )

    async def screen(self, message: bytes, about: About) -> Screened:
        """Ask about one message."""
        try:
            read = _read(message)
            answer = await self._ask(read, about)
        except (Unreadable, BadMessage, EngineFault) as fault:
            _log.warning(
                "a response is withheld", server=about.caller.server.id, why=fault_text(fault)
            )
            return Screened(reason="answer_unreadable")
        except _TooLarge:
            return Screened(reason="answer_too_large")
        return _applied(message, read, answer, about)

    async def _ask(self, read: "_Read", about: About) -> "_Answer":
        document = self._document(read, about)
        question = orjson.dumps({"input": document}, default=as_sent)
        if len(question) > LARGEST_QUESTION:
            raise _TooLarge
        answer = await self._engine.ask(_DOCUMENT, question, key=about.caller.key.id)
        return _believed(answer.result)

    def _document(self, read: "_Read", about: About) -> dict[str, Json]:
        caller, tool = about.caller, about.tool
        agent, server = caller.agent, caller.server
        named = about.tool_name and {
            "name": about.tool_name,
            "risk": "HIGH" if tool is None else tool.risk,
        }
        return {
            "version": 1,
            "project": {"id": caller.project.id, "slug": caller.project.slug},
            "agent": agent and {"id": agent.id, "name": agent.name, "asserted": caller.asserted},
            "server": {"id": server.id, "slug": server.slug, "template": server.template},
            "tool": named or None,
            "kind": read.kind,
            "method": read.message.get("method", about.method),
            "body": read.body,
            "context": {"time": self._now()},
        }


class _TooLarge(Exception):
    """More than OPA may be asked about."""


@frozen
class _Read:
    message: dict[str, Json]
    kind: str
    part: str

    @property
    def body(self) -> Json:
        return self.message.get(self.part)


@frozen
class _Answer:
    block: bool
    asked: Asked
    labels: tuple[str, ...]
    policy_ids: tuple[str, ...]


def _read(message: bytes) -> _Read:
    found = read_json(message)
    if not isinstance(found, dict) or found.keys() - _MEMBERS:
        raise Unreadable("it is no JSON-RPC message, or has members of its own")
    check_values(found)
    if "method" in found:
        if {"result", "error"} & found.keys():
            raise Unreadable("it is a request and a response at once")
        return _Read(found, "request" if "id" in found else "notification", "params")
    if ("result" in found) == ("error" in found):
        raise Unreadable("it has neither a result nor an error, or both")
    kind = "result" if "result" in found else "error"
    return _Read(found, kind, kind)


def _believed(result: Json) -> _Answer:
    """Hold OPA's answer to its contract: a half-understood one is none."""
    try:
        replacements = [(tuple(one["path"]), _text(one["text"])) for one in result["replacements"]]
        if not isinstance(result["block"], bool):
            raise TypeError
        return _Answer(
            result["block"],
            Asked([_text(one) for one in result["pointers"]], replacements),
            tuple(_text(one) for one in result["labels"]),
            tuple(_text(one) for one in result["policy_ids"]),
        )
    except (KeyError, TypeError):
        raise EngineFault("the response policy's answer is not as it should be") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _applied(message: bytes, read: _Read, answer: _Answer, about: About) -> Screened:
    told = Screened(message, labels=answer.labels, policy_ids=answer.policy_ids)
    wants = answer.block or bool(answer.asked.pointers or answer.asked.replacements)
    caller = about.caller
    enforcement = caller.server.enforcement or caller.project.enforcement
    if not wants:
        return told
    if enforcement is Enforcement.MONITOR:
        return replace(told, would_withhold=answer.block)
    if answer.block:
        return replace(told, message=b"", reason="answer_withheld")
    schema = None if about.tool is None else about.tool.output_schema
    try:
        body = redact(read.body, answer.asked, schema, tool_known=about.tool is not None)
    except Unredactable as fault:
        _log.warning("a response is withheld", server=caller.server.id, why=fault_text(fault))
        return replace(told, message=b"", reason="answer_withheld")
    changed = body != read.body
    return replace(
        told,
        message=write_json({**read.message, read.part: body}) if changed else message,
        redacted=changed,
    )


class ScreenedEvents(SiftedEvents):
    """An `EventStream` of which every message was asked about.

    A notification that is withheld is left out, a response becomes an error with its id. What
    nobody can tell the id of, or a request, ends the stream: whoever waits would wait for ever.
    """

    def __init__(
        self,
        events: EventStream,
        screening: Screening,
        about: About,
        rpc_id: str | int | None,
        notes: Notes,
        trace_id: str = "",
    ) -> None:
        super().__init__(events, rpc_id, trace_id)
        self._screening = screening
        self._about = about
        self._notes = notes

    async def _sift(self, raw: bytes) -> bytes:
        if self._events.ended:
            return raw  # the gateway's own last words
        raw = fields_only(raw)
        return await self._screened(raw, self._data) if self._data else raw

    async def _screened(self, raw: bytes, data: bytes) -> bytes:
        screened = await self._screening.screen(data, self._about)
        kind, rpc_id = _kind(data)
        if screened.reason and kind == "notification":
            self._notes.add(replace(screened, reason=""))
            return b""
        self._notes.add(screened)
        if not screened.reason:
            self._data = screened.message
        elif kind == "response":
            self._data = self._error(rpc_id, screened.reason)
        else:
            return await self._stop(screened.reason)
        return with_data(raw, self._data)

    def _error(self, rpc_id: Json, reason: str) -> bytes:
        refused = Refused(reason)
        data = told(refused, self._trace_id)
        error = {"code": refused.code, "message": refused.message, "data": data}
        return write_json({"jsonrpc": "2.0", "id": rpc_id, "error": error})


def _kind(data: bytes) -> tuple[Literal["request", "notification", "response", "none"], Json]:
    try:
        message = read_json(data)
    except Unreadable:
        return "none", None
    if not isinstance(message, dict):
        return "none", None
    if "method" in message:
        return ("request" if "id" in message else "notification"), None
    rpc_id = message.get("id")
    is_id = isinstance(rpc_id, str | int) and not isinstance(rpc_id, bool)
    return ("response", rpc_id) if is_id else ("none", None)
