"""MCP servers: registered by form or from a template, scanned, approved, blocked, removed."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from gateway.api.consents import AskedOut, ConsentOut
from gateway.api.errors import ApiError
from gateway.api.models import Listing
from gateway.api.overrides import OverrideOut
from gateway.api.servers import ScanOut, ServerOut, TemplatedServerOut
from gateway.api.templates import TemplateOut, TemplatesOut
from gateway.api.tools import ToolOut
from gateway.dashboard import forms
from gateway.dashboard.desk import body_of
from gateway.dashboard.lists import Noun, export, listed
from gateway.dashboard.names import names_of, policies_of
from gateway.dashboard.page import Page, PageRoute, faults_of, schema_of, waiting
from gateway.values import ServerId

_SERVERS, _ONE = "/mcp/servers", "/mcp/servers/{id}"
_LIST = Noun("/servers", _SERVERS, Listing[ServerOut])
_UP = ("/servers", "Servers")
_LEFT_OUT = ("params", "status")
_LABELS = {
    "server_url": "URL",
    "auth.type": "Credential",
    "tls_ca": "Certificate authority (PEM)",
    "is_proxied": "Offered to clients",
    "allow_private_network": "May lie in a private network",
}


async def index(page: Page) -> Response:
    found = await listed(page, _LIST)
    templates = TemplatesOut(items=[])
    if page.desk.may("GET", "/mcp/templates"):
        templates = await page.desk.read("/mcp/templates", TemplatesOut)
    return page.draw(
        "servers.html",
        title="Servers",
        list=found,
        servers=found.items,
        templates=templates.items,
    )


async def ask(page: Page) -> Response:
    return _form(page, schema_of(body_of("POST", _SERVERS)), None, {}, "Register a server")


async def make(page: Page) -> Response:
    schema, typed = schema_of(body_of("POST", _SERVERS)), page.form
    try:
        made = await page.desk.change("POST", _SERVERS, body=forms.read(schema, typed))
    except ApiError as fault:
        return _form(page, schema, typed, faults_of(fault), "Register a server", fault)
    assert isinstance(made, ServerOut)
    page.say("Registered. Scan it, look at its tools, then activate it.")
    return page.to(f"/servers/{made.id}")


async def ask_from_template(page: Page) -> Response:
    template = await page.desk.read("/mcp/templates/{name}", TemplateOut, page.ids)
    return _template_form(page, template, None, {})


async def make_from_template(page: Page) -> Response:
    template = await page.desk.read("/mcp/templates/{name}", TemplateOut, page.ids)
    typed = page.form
    body: dict[str, Any] = {"template": template.name}
    body |= {n: typed[n].strip() for n in ("name", "server_url") if typed.get(n, "").strip()}
    body["params"] = forms.read(template.parameters, _inside(typed))
    try:
        made = await page.desk.change("POST", "/mcp/servers/from-template", body=body)
    except ApiError as fault:
        return _template_form(page, template, typed, faults_of(fault), fault)
    assert isinstance(made, TemplatedServerOut)
    page.say(f"Registered with {len(made.policies)} policies. Scan it, then activate it.")
    return page.to(f"/servers/{made.id}")


async def show(page: Page) -> Response:
    server = await page.desk.read(_ONE, ServerOut, page.ids)
    tools = await page.desk.read(_ONE + "/tools", Listing[ToolOut], page.ids, limit=200)
    overrides = await page.desk.read(_ONE + "/overrides", Listing[OverrideOut], page.ids, limit=200)
    template = None
    if server.connector_type != "custom" and page.desk.may("GET", "/mcp/templates/{name}"):
        template = await page.desk.read(
            "/mcp/templates/{name}", TemplateOut, {"name": server.connector_type}
        )
    order = {"SUSPECT": 0, "CHANGED": 0, "PENDING": 1, "ACCEPTED": 2, "GONE": 3}
    return page.draw(
        "server.html",
        title=server.name,
        server=server,
        tools=sorted(tools.items, key=lambda tool: (order.get(tool.pin, 9), tool.name)),
        more_tools=tools.next_cursor is not None,
        overrides=overrides.items,
        template=template,
        consent=await _consent(page, server),
        names=names_of(page),
        policies=policies_of(page),
        clients=_clients(server),
        up=_UP,
    )


async def _consent(page: Page, server: ServerOut) -> ConsentOut | None:
    """How it stands; None for a server that needs none, or that nobody was asked about yet."""
    if server.auth_type != "oauth_authorization_code":
        return None
    try:
        return await page.desk.read(_ONE + "/consent", ConsentOut, page.ids)
    except ApiError as fault:
        if fault.status != 409:
            raise
        return None


async def scan(page: Page) -> Response:
    try:
        found = await page.desk.change("POST", _ONE + "/scan", page.ids)
    except ApiError as fault:
        page.say(fault.message, "error")
        return page.to(f"/servers/{page.ids['id']}")
    assert isinstance(found, ScanOut)
    parts = [f"{found.tools} tools"]
    for label, names in (
        ("new", found.added),
        ("changed", found.changed),
        ("gone", found.removed),
        ("suspect", found.suspects),
        ("covered by no policy", found.uncovered),
    ):
        if names:
            parts.append(f"{len(names)} {label}")
    page.say("Scanned: " + ", ".join(parts) + ("" if found.complete else "; not complete"))
    return page.to(f"/servers/{page.ids['id']}")


async def progress(page: Page) -> Response:
    """Asked by the page while its scan runs."""
    server = await page.desk.read(_ONE, ServerOut, page.ids)
    found = page.context.scanning(ServerId(server.id))
    if found is None:
        return JSONResponse({"text": ""})
    tools = f"{found.tools:,} tool{'' if found.tools == 1 else 's'}"
    text = f"Assessing {tools}…" if found.step == "assessing" else f"{tools} read…"
    return JSONResponse({"text": text})


async def set_status(page: Page) -> Response:
    status = page.form.get("status", "")
    said = {"ACTIVE": "Active: agents may call it.", "BLOCKED": "Blocked: every call is refused."}
    done = said.get(status, "Set back to waiting.")
    await page.attempt("PATCH", _ONE, {"status": status}, done=done)
    return page.to(f"/servers/{page.ids['id']}")


async def ask_change(page: Page) -> Response:
    server = await page.desk.read(_ONE, ServerOut, page.ids)
    return _change_form(page, server, None, {})


async def change(page: Page) -> Response:
    server = await page.desk.read(_ONE, ServerOut, page.ids)
    schema, typed = schema_of(body_of("PATCH", _ONE)), page.form
    leave_out = [*_LEFT_OUT, *(() if typed.get("new_credential") else _credential(schema))]
    body = forms.read(schema, typed, before=server.model_dump(), leave_out=leave_out)
    if server.params:
        template = await page.desk.read(
            "/mcp/templates/{name}", TemplateOut, {"name": server.connector_type}
        )
        params = forms.read(template.parameters, _inside(typed), before=server.params)
        body |= {"params": params} if params else {}
    try:
        made = await page.desk.change("PATCH", _ONE, page.ids, body)
    except ApiError as fault:
        return await _again(page, server, typed, fault)
    page.say(waiting(made) or "Saved.", "warning" if waiting(made) else "success")
    return page.to(f"/servers/{server.id}")


async def ask_remove(page: Page) -> Response:
    return await _remove_form(page, "")


async def remove(page: Page) -> Response:
    server = await page.desk.read(_ONE, ServerOut, page.ids)
    if page.form.get("typed_name", "").strip() != server.name:
        return await _remove_form(page, "That is not its name; nothing was removed.")
    await page.desk.change("DELETE", _ONE, page.ids)
    page.say("Removed, with its tools and rules.")
    return page.to("/servers")


async def consent(page: Page) -> Response:
    """Where an administrator consents to the gateway's use of the server in their name."""
    made = await page.desk.change("POST", _ONE + "/consent", page.ids)
    assert isinstance(made, AskedOut)
    return page.draw(
        "consent.html",
        title="Consent",
        lead="The authorization server asks you to let the gateway in, once.",
        asked=made,
        up=(f"/servers/{page.ids['id']}", "The server"),
    )


async def accept_version(page: Page) -> Response:
    typed = page.form
    body = {"version": typed.get("version", ""), "reason": typed.get("reason", "").strip()}
    await page.attempt("POST", _ONE + "/template-version", body, done="Accepted.")
    return page.to(f"/servers/{page.ids['id']}")


def _form(
    page: Page,
    schema: Mapping[str, Any],
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    title: str,
    fault: ApiError | None = None,
) -> Response:
    fields = forms.draw(schema, typed=typed, errors=errors, labels=_LABELS)
    return page.draw_form(title, fields, errors, fault, submit="Register", up=_UP)


def _template_form(
    page: Page,
    template: TemplateOut,
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    fault: ApiError | None = None,
) -> Response:
    inner = {name.removeprefix("params."): text for name, text in errors.items()}
    params = forms.draw(
        template.parameters, typed=None if typed is None else _inside(typed), errors=inner
    )
    return page.draw_form(
        f"A {template.title} server",
        params,
        inner,
        fault,
        template="from_template.html",
        known=("name", "server_url"),
        chosen=template,
        typed=typed or {"name": template.title},
        errors=errors,
        up=_UP,
    )


async def _again(page: Page, server: ServerOut, typed: dict[str, str], fault: ApiError) -> Response:
    return _change_form(page, server, typed, faults_of(fault), fault)


def _change_form(
    page: Page,
    server: ServerOut,
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    fault: ApiError | None = None,
) -> Response:
    schema = schema_of(body_of("PATCH", _ONE))
    credential = _credential(schema)
    values = server.model_dump()
    fields = forms.draw(
        schema,
        values=values,
        typed=typed,
        errors=errors,
        leave_out=[*_LEFT_OUT, *credential],
        labels=_LABELS,
    )
    others = [name for name in forms.names(schema) if name not in credential]
    secrets = forms.draw(schema, typed=typed, errors=errors, leave_out=others)
    found = page.context.api.registry.templates.get(server.connector_type)
    inner = {name.removeprefix("params."): text for name, text in errors.items()}
    params = []
    if found is not None:
        params = forms.draw(
            found.parameters,
            values=server.params,
            typed=None if typed is None else _inside(typed),
            errors=inner,
        )
    return page.draw_form(
        f"Change {server.name}",
        fields,
        inner,
        fault,
        template="change_server.html",
        known=forms.shown(inner, [*secrets, *params]),
        server=server,
        secrets=secrets,
        params=params,
        new_credential=bool(typed and typed.get("new_credential")),
        up=(f"/servers/{server.id}", server.name),
    )


async def _remove_form(page: Page, wrong: str) -> Response:
    server = await page.desk.read(_ONE, ServerOut, page.ids)
    return page.draw(
        "form.html",
        400 if wrong else 200,
        title=f"Remove {server.name}",
        fields=[],
        others=[wrong] if wrong else [],
        note="Its tools, rules, budgets and overrides go with it; the trace stays.",
        submit="Remove",
        tone="danger",
        typed_name=server.name,
        up=(f"/servers/{server.id}", server.name),
    )


def _credential(schema: Mapping[str, Any]) -> list[str]:
    return [name for name in forms.names(schema) if name.startswith("auth.")]


def _inside(typed: Mapping[str, str]) -> dict[str, str]:
    return {n.removeprefix("params."): v for n, v in typed.items() if n.startswith("params.")}


def _clients(server: ServerOut) -> list[tuple[str, str]]:
    """What to paste into clients; `<key>` stands for an agent's key."""
    url, name, header = server.proxy_endpoint, server.slug, "Authorization: Bearer <key>"
    entry = {"url": url, "headers": {"Authorization": "Bearer <key>"}}
    return [
        ("Claude Code", f"claude mcp add --transport http {name} {url} --header '{header}'"),
        ("Cursor, .cursor/mcp.json", json.dumps({"mcpServers": {name: entry}}, indent=2)),
        (
            "Windsurf, ~/.codeium/windsurf/mcp_config.json",
            json.dumps(
                {"mcpServers": {name: {"serverUrl": url, "headers": entry["headers"]}}}, indent=2
            ),
        ),
        (
            "VS Code, .vscode/mcp.json",
            json.dumps({"servers": {name: {"type": "http", **entry}}}, indent=2),
        ),
    ]


PAGES = (
    PageRoute("GET", "/servers", index),
    export(_LIST),
    PageRoute("GET", "/servers/new", ask),
    PageRoute("POST", "/servers/new", make),
    PageRoute("GET", "/servers/from/{name}", ask_from_template),
    PageRoute("POST", "/servers/from/{name}", make_from_template),
    PageRoute("GET", "/servers/{id}", show),
    PageRoute("GET", "/servers/{id}/scan", progress),
    PageRoute("POST", "/servers/{id}/scan", scan),
    PageRoute("POST", "/servers/{id}/status", set_status),
    PageRoute("GET", "/servers/{id}/change", ask_change),
    PageRoute("POST", "/servers/{id}/change", change),
    PageRoute("GET", "/servers/{id}/remove", ask_remove),
    PageRoute("POST", "/servers/{id}/remove", remove),
    PageRoute("POST", "/servers/{id}/template-version", accept_version),
    PageRoute("POST", "/servers/{id}/consent", consent),
)
