"""The decision point for others: AuthZEN's Access Evaluation API 1.0, and `mcpsec`'s question.

A question is admitted, charged and traced like any call, because whoever asks acts upon it;
``context.dry_run`` makes one free of effects. https://openid.net/specs/authorization-api-1_0.html
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.call import ApiCall
from gateway.api.context import ApiContext
from gateway.api.endpoint import Route, parsed
from gateway.api.errors import FORESEEN, ApiError, details_of, error_of, faulty
from gateway.extensions.asked import Asked
from gateway.extensions.control_plane import ControlPlane
from gateway.extensions.door import admitted, over_rate, reply
from gateway.extensions.events import REQUESTED, EventIn
from gateway.extensions.told import Told
from gateway.ids import new_id
from gateway.registry.faults import Invalid
from gateway.values import Json, Key

ACTIONS = frozenset({"call", "tools/call"})
MOST_EVALUATIONS = 100
_DENY_FIRST, _PERMIT_FIRST = "deny_on_first_deny", "permit_on_first_permit"

_Text = Annotated[str, Field(min_length=1, max_length=512)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, defer_build=True)


class Subject(_Open):
    """`agent`: an agent's id or name. `user`: a person on whose behalf the key's agent acts."""

    type: _Text
    id: _Text


class Action(_Open):
    name: _Text


class ToolProperties(_Open):
    server: Annotated[_Text | None, Field(description="Its id or slug")] = None
    arguments: dict[str, Any] = {}
    description: str = ""


class Resource(_Open):
    """A `tool`, by name; its properties hold the server and the arguments."""

    type: _Text
    id: _Text
    properties: ToolProperties = ToolProperties()


class Evaluation(_Open):
    subject: Subject
    action: Action
    resource: Resource
    context: dict[str, Any] = {}


class Options(_Open):
    evaluations_semantic: Literal["execute_all", "deny_on_first_deny", "permit_on_first_permit"] = (
        "execute_all"
    )


class Evaluations(_Open):
    """Members beside `evaluations` are the defaults of each of them."""

    subject: dict[str, Any] | None = None
    action: dict[str, Any] | None = None
    resource: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    evaluations: Annotated[list[dict[str, Any]], Field(max_length=MOST_EVALUATIONS)] = []
    options: Options = Options()


class EvaluationAnswer(BaseModel):
    decision: bool
    context: dict[str, Any]


class EvaluationList(BaseModel):
    evaluations: list[EvaluationAnswer]


class EvaluationsAnswer(RootModel[EvaluationList | EvaluationAnswer]):
    """Where no evaluations are sent, what stands beside them is the one that is answered."""


class Question(_Open):
    """As the `mcpsec` benchmark asks."""

    tool: _Text
    function: Annotated[str, Field(max_length=512)] = ""
    parameters: dict[str, Any] = {}


class QuestionAnswer(BaseModel):
    verdict: Literal["allow", "deny"]
    reason: str
    matched_policy: str | None


async def evaluation(
    context: ApiContext, route: Route, request: Request, request_id: str
) -> Response:
    """The door of ``/access/v1/evaluation``. Raises `FORESEEN`."""
    key, raw = await admitted(context, route, request)
    answer = await _evaluated(context.control_plane, key, parsed(request, raw))
    return reply(200, answer, _correlated(request, request_id))


async def evaluations(
    context: ApiContext, route: Route, request: Request, request_id: str
) -> Response:
    """The door of ``/access/v1/evaluations``: in order, as far as the semantic asked for goes."""
    key, raw = await admitted(context, route, request)
    document = parsed(request, raw)
    many = _read(Evaluations, document)
    plane = context.control_plane
    defaults = {
        name: document[name]
        for name in ("subject", "action", "resource", "context")
        if document.get(name) is not None
    }
    asked: list[Mapping[str, Json]] = document.get("evaluations") or []
    if not asked:
        answer = await _evaluated(plane, key, defaults)
        return reply(200, answer, _correlated(request, request_id))
    found: list[dict[str, Any]] = []
    for one in asked:
        found.append(await _item(plane, key, {**defaults, **one}, request_id))
        semantic, decision = many.options.evaluations_semantic, found[-1]["decision"]
        if (semantic == _DENY_FIRST and not decision) or (semantic == _PERMIT_FIRST and decision):
            break
    return reply(200, {"evaluations": found}, _correlated(request, request_id))


async def question(
    context: ApiContext, route: Route, request: Request, request_id: str
) -> Response:
    """The door of ``/api/evaluate``, which is there only where it is asked for."""
    key, raw = await admitted(context, route, request)
    slug = context.evaluate_profile
    if slug is None:
        raise ApiError(404, "No such path.")
    document = parsed(request, raw)
    read = _read(Question, document)
    resource = {
        "type": "tool",
        "id": f"{read.tool}.{read.function}" if read.function else read.tool,
        "properties": {"server": slug, "arguments": document.get("parameters", {})},
    }
    told = await _decided(context.control_plane, key, None, resource, {})
    body = {
        "verdict": "allow" if told.passes else "deny",
        "reason": told.reason,
        "matched_policy": told.policy_id,
    }
    return reply(200, body, request_id)


async def _item(
    plane: ControlPlane, key: Key, document: Mapping[str, Json], request_id: str
) -> dict[str, Any]:
    """What cannot be evaluated is a denial that says so (AuthZEN 1.0, section 7.2.1)."""
    try:
        return await _evaluated(plane, key, document)
    except FORESEEN as fault:
        error = error_of(fault)
        told = {"status": error.status, **error.body(request_id)}
        return {"decision": False, "context": {"error": told}}


async def _evaluated(plane: ControlPlane, key: Key, document: Mapping[str, Json]) -> dict[str, Any]:
    asked = _read(Evaluation, document)
    if asked.action.name not in ACTIONS:
        raise Invalid({"action.name": "must be call: what is decided here are tool calls"})
    if asked.resource.type != "tool":
        raise Invalid({"resource.type": "must be tool"})
    told = await _decided(plane, key, asked.subject, document["resource"], asked.context)
    shown = {
        "reason_code": told.reason_code,
        "trace_id": told.trace_id,
        "approval_id": told.approval_id,
        "expires_at": told.expires_at,
    }
    return {
        "decision": told.passes,
        "context": {name: value for name, value in shown.items() if value},
    }


async def _decided(
    plane: ControlPlane,
    key: Key,
    subject: Subject | None,
    resource: Mapping[str, Json],
    context: Mapping[str, Any],
) -> Told:
    sender = plane.senders.sender(key)
    sender.must_have("decide")
    wait = plane.take(sender)
    if wait > 0:
        raise over_rate(wait)
    properties = resource.get("properties") or {}
    event = {
        "event_type": REQUESTED,
        "mode": "decide",
        "server_id": _server(plane, key, properties.get("server")),
        "tool": {
            "name": resource["id"],
            "arguments": properties.get("arguments", {}),
            "description": properties.get("description", ""),
        },
    }
    if subject is not None:
        event |= (
            {"agent_id": subject.id} if subject.type == "agent" else {"user": {"id": subject.id}}
        )
    read = _read(EventIn, {name: value for name, value in event.items() if value is not None})
    caller = await plane.senders.caller(sender, read)
    asked = Asked(sender, read, event, new_id("evt"), caller, "authzen")
    if context.get("dry_run") is True:
        return await plane.would(asked)
    return await plane.decide(asked)


def _server(plane: ControlPlane, key: Key, named: Json) -> str | None:
    """A server by its id or slug; what is neither is found nowhere."""
    view = plane.registry.directory.view(key.project_id)
    for server in view.servers.values():
        if named in (server.id, server.slug):
            return str(server.id)
    return None if named is None else str(named)


def _read(model: Any, document: Mapping[str, Json]) -> Any:
    try:
        return model.model_validate(document)
    except ValidationError as fault:
        raise faulty(details_of(fault)) from None


def _correlated(request: Request, request_id: str) -> str:
    """The caller's own request id, if it sent one (AuthZEN 1.0, section 10.1.3)."""
    own = request.headers.get("x-request-id", "")
    return own if 0 < len(own) <= 128 and own.isprintable() and own.isascii() else request_id


async def evaluates(_call: ApiCall, _body: Evaluation) -> None:
    """Names the route; `evaluation` takes it."""
    raise AssertionError("the door takes this route")


async def evaluates_many(_call: ApiCall, _body: Evaluations) -> None:
    """Names the route; `evaluations` takes it."""
    raise AssertionError("the door takes this route")


async def answers(_call: ApiCall, _body: Question) -> None:
    """Names the route; `question` takes it."""
    raise AssertionError("the door takes this route")
