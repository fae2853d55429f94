"""The API's description in OpenAPI 3.1, written from the table of routes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.api.call import Waiting
from gateway.api.endpoint import Route

VERSION = "1.0"
"""Of the API, not of the program: it rises when clients must change."""

_REFS = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id", "details"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "request_id": {"type": "string"},
                "details": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["field", "message"],
                        "properties": {
                            "field": {"type": "string"},
                            "message": {"type": "string"},
                        },
                    },
                },
            },
        }
    },
}
_FAULTS = {
    "400": "The request has faults; details name every field",
    "401": "No key, or one that is unknown, expired or revoked",
    "403": "The key's role, or its person, may not do this",
    "404": "No such thing in this project",
    "405": "This path does not have this method",
    "408": "The body took too long",
    "409": "The state has moved on",
    "413": "The body is over 4 MiB",
    "415": "The body is not JSON",
    "422": "The Idempotency-Key was used for another request",
    "429": "Too many requests with this key",
    "503": "The database, the policy engine or the server cannot answer now",
}
_BODY_FAULTS = frozenset({"408", "413", "415"})
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request within a day is answered as before, and "
    "nothing is done twice; with another request it is refused with 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON."""
    refs, definitions = models_json_schema(list(_models(routes)), ref_template=_REFS)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = paths.setdefault(route.base + route.path, {})
        path[route.method.lower()] = _operation(route, refs)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "policy-gateway", "version": VERSION},
            "security": [{"key": []}],
            "paths": paths | _unguarded(),
            "components": {
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
                "schemas": {**definitions.get("$defs", {}), "Error": _ERROR},
            },
        },
        option=orjson.OPT_INDENT_2,
    )


_Mode = Literal["validation", "serialization"]
_Refs = Mapping[Any, Mapping[str, Any]]
"""By model and mode."""


def _models(routes: Sequence[Route]) -> dict[tuple[type[BaseModel], _Mode], None]:
    found: dict[tuple[type[BaseModel], _Mode], None] = {}
    for route in routes:
        if route.body is not None:
            found[route.body, "validation"] = None
        if isinstance(route.answer, type):
            found[route.answer, "serialization"] = None
        if route.may_loosen:
            found[Waiting, "serialization"] = None
        if route.fault is not None:
            found[route.fault, "serialization"] = None
    return found


def _operation(route: Route, refs: _Refs) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "description": "Roles: " + ", ".join(sorted(route.roles)) + ".",
        "tags": [route.path.removeprefix("/mcp").split("/")[1]],
        "responses": _responses(route, refs),
    }
    parameters = [_path_parameter(name) for name in re.findall(r"\{(\w+)\}", route.path)]
    if route.query is not None:
        parameters += _query_parameters(route.query)
    if route.method != "GET" and route.writes and route.door is None:
        parameters.append(_IDEMPOTENCY)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content = _json(refs[route.body, "validation"])
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _operation_id(route: Route) -> str:
    return f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}"


def _responses(route: Route, refs: _Refs) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Done"}
    if isinstance(route.answer, tuple):
        success["content"] = {media_type: {} for media_type in route.answer}
    elif route.answer is not None:
        success["content"] = _json(refs[route.answer, "serialization"])
    responses: dict[str, Any] = {str(route.status): success}
    if route.may_loosen:
        content = _json(refs[Waiting, "serialization"])
        responses["202"] = {"description": "A second person must confirm it", "content": content}
    if route.greeting:
        content = {route.greeting: {}}
        responses["200"] = {
            "description": "The platform's own check of the address",
            "content": content,
        }
    fault: Any = {"$ref": _REFS.format(model="Error")}
    if route.fault is not None:
        fault = refs[route.fault, "serialization"]
    for status, description in _FAULTS.items():
        if status in _BODY_FAULTS and route.method == "GET":
            continue
        if status == "404" and "{" not in route.path and route.answer is None:
            continue
        responses[status] = {"description": description, "content": _json(fault)}
    for status in map(str, route.verdicts):
        verdict = refs[route.answer, "serialization"]
        schema = {"anyOf": [verdict, fault]} if status in _FAULTS else verdict
        responses[status] = {"description": "A verdict", "content": _json(schema)}
    return responses


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    schema = query.model_json_schema()
    definitions = schema.get("$defs", {})
    parameters = []
    for name, found in schema["properties"].items():
        inlined = _inline(found, definitions)
        inlined.pop("title", None)
        parameters.append({"name": name, "in": "query", "required": False, "schema": inlined})
    return parameters


def _inline(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema without references: parameters stand alone."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return {name: _inline(value, definitions) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_inline(item, definitions) for item in schema]
    return schema


def _unguarded() -> dict[str, Any]:
    """What needs no key."""

    def get(summary: str, *statuses: str) -> dict[str, Any]:
        responses = {status: {"description": summary} for status in statuses}
        return {"get": {"summary": summary, "security": [], "responses": responses}}

    return {
        "/healthz": get("Whether the process answers", "200"),
        "/readyz": get("Whether calls can be decided, traced and forwarded", "200", "503"),
        "/openapi.json": get("This document", "200"),
    }
