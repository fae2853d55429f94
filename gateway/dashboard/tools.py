"""One tool: what was accepted beside what is shown now, its risk, and a call tried on it."""

import difflib
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection
from starlette.responses import Response

from gateway.api.decide import Answer
from gateway.api.errors import ApiError
from gateway.api.tools import DiffOut
from gateway.dashboard import forms
from gateway.dashboard.names import choices_of, names_of
from gateway.dashboard.page import Page, PageRoute, faults_of, told
from gateway.frozen import frozen
from gateway.registry import tools
from gateway.values import Risk

_DIFF = "/mcp/tools/{id}/diff"
_DECIDE = "/mcp/decide"


@frozen
class Line:
    """One line of both definitions, side by side; an empty side has none."""

    left: str
    right: str
    kind: str


async def show(page: Page) -> Response:
    diff = await page.desk.read(_DIFF, DiffOut, page.ids)
    registry = page.context.api.registry
    project_id = page.person.project_id
    row = await registry.read(lambda c: tools.get(c, project_id, diff.id))
    names = names_of(page)
    return page.draw(
        "tool.html",
        title=diff.name,
        tool=row,
        diff=diff,
        lines=side_by_side(diff),
        risk=tools.risk_of(row).value,
        risks=[risk.value for risk in Risk],
        names=names,
        up=(f"/servers/{row.server_id}", names.get(row.server_id, "Server")),
    )


async def accept(page: Page) -> Response:
    typed = page.form
    body = {
        "definition_sha256": typed.get("definition_sha256", ""),
        "reason": typed.get("reason", "").strip(),
    }
    done = "Accepted: agents may call it as it is shown."
    await page.attempt("POST", "/mcp/tools/{id}/accept", body, done=done)
    return page.to(f"/tools/{page.ids['id']}")


async def set_risk(page: Page) -> Response:
    typed = page.form
    body = {"risk_override": typed.get("risk") or None, "reason": typed.get("reason", "").strip()}
    await page.attempt("PATCH", "/mcp/tools/{id}", body, done="Saved.")
    return page.to(f"/tools/{page.ids['id']}")


async def ask(page: Page) -> Response:
    return await _trial(page, dict(page.query), {}, None)


async def decide(page: Page) -> Response:
    """Ask the policy about a call that nobody makes."""
    typed = page.form
    schema = await _schema(page, typed.get("tool_id", ""))
    arguments: Any = orjson.Fragment(typed.get("arguments", "").strip() or "{}")
    if schema is not None and not typed.get("arguments", "").strip():
        inside = {n.removeprefix("arg."): v for n, v in typed.items() if n.startswith("arg.")}
        arguments = forms.read(schema, inside)
    body: dict[str, Any] = {
        "server_id": typed.get("server_id", ""),
        "tool": {"name": await _name(page, typed)},
        "arguments": arguments,
    }
    if typed.get("agent_id"):
        body["agent_id"] = typed["agent_id"]
    try:
        answer = await page.desk.change("POST", _DECIDE, body=body)
    except (ApiError, orjson.JSONEncodeError) as fault:
        errors = faults_of(fault) if isinstance(fault, ApiError) else {}
        line = told(fault) if isinstance(fault, ApiError) else "The arguments are no JSON object."
        return await _trial(page, typed, errors | {"": line}, None)
    assert isinstance(answer, Answer)
    return await _trial(page, typed, {}, answer)


async def _trial(
    page: Page, typed: dict[str, str], errors: dict[str, str], answer: Answer | None
) -> Response:
    choices = choices_of(page)
    server_id = typed.get("server_id") or next((id_ for id_, _ in choices["server_id"]), "")
    schema = await _schema(page, typed.get("tool_id", ""))
    inside = {n.removeprefix("arg."): v for n, v in typed.items() if n.startswith("arg.")}
    fields = [] if schema is None else forms.draw(schema, typed=inside or None)
    view = page.context.api.registry.directory.view(page.person.project_id)
    of_server = [
        (tool.id, tool.name)
        for owner, there in view.tools.items()
        if owner == server_id
        for tool in there.values()
    ]
    return page.draw(
        "try.html",
        400 if errors else 200,
        title="Try a call",
        lead="Nothing is sent to the server, charged or approved.",
        typed={**typed, "server_id": server_id},
        tools=sorted(of_server, key=lambda pair: pair[1]),
        choices=choices,
        fields=fields,
        errors=errors,
        answer=answer,
        up=(f"/servers/{server_id}", "Server") if server_id else ("/servers", "Servers"),
    )


async def _schema(page: Page, tool_id: str) -> Mapping[str, Any] | None:
    if not tool_id:
        return None
    project_id = page.person.project_id

    def read(connection: Connection) -> Mapping[str, Any]:
        row = tools.get(connection, project_id, tool_id)
        found: Mapping[str, Any] = orjson.loads(row.current).get("inputSchema") or {}
        return found

    return await page.context.api.registry.read(read)


async def _name(page: Page, typed: Mapping[str, str]) -> str:
    tool_id, project_id = typed.get("tool_id", ""), page.person.project_id
    if not tool_id:
        return typed.get("tool_name", "")
    name = await page.context.api.registry.read(lambda c: tools.get(c, project_id, tool_id).name)
    return str(name)


def side_by_side(diff: DiffOut) -> list[Line]:
    """Both definitions as indented JSON; strings keep their own line breaks."""
    left = _text(diff.accepted.definition) if diff.accepted else []
    right = _text(diff.current.definition)
    lines: list[Line] = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        before, after = left[a:b], right[c:d]
        for number in range(max(len(before), len(after))):
            lines.append(
                Line(
                    before[number] if number < len(before) else "",
                    after[number] if number < len(after) else "",
                    "same" if kind == "equal" else "changed",
                )
            )
    return lines


def _text(definition: Mapping[str, Any]) -> list[str]:
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    return orjson.dumps(definition, option=options).decode().replace("\\n", "\\n\n").splitlines()


PAGES = (
    PageRoute("GET", "/tools/{id}", show),
    PageRoute("POST", "/tools/{id}/accept", accept),
    PageRoute("POST", "/tools/{id}/risk", set_risk),
    PageRoute("GET", "/try", ask),
    PageRoute("POST", "/try", decide),
)
