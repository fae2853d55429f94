"""`/mcp/servers`: registered, approved, scanned, removed."""

from typing import Any, Literal

from pydantic import JsonValue
from sqlalchemy import Connection, Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output
from gateway.api.templates import TemplatePolicyOut, policies_of
from gateway.policy.templates import Template
from gateway.registry import pins, rules, servers, templated_servers, templates, tools
from gateway.registry.core import Change
from gateway.registry.faults import Conflict, Missing
from gateway.registry.pages import Page
from gateway.registry.pins import Findings, Scan
from gateway.registry.servers import NewServer, ServerPatch
from gateway.registry.templated_servers import FromTemplate, NextVersion
from gateway.values import Server, ServerId


class Difference(Output):
    """What a template's present version says otherwise than the accepted one."""

    kind: Literal["policy", "parameter"]
    id: str
    before: dict[str, JsonValue] | None
    """Null for what is new."""
    after: dict[str, JsonValue] | None
    """Null for what is gone."""


class ServerOut(Output):
    """A server as registered; of its credential only the type is ever shown."""

    id: str
    slug: str
    name: str
    description: str
    server_url: str
    """Empty while a server that was made from a template waits for it."""
    transport: str
    connector_type: str
    params: dict[str, JsonValue]
    """The template's parameters, all of them."""
    template_version: str | None
    """The version that was accepted for this server."""
    available_version: str | None = None
    """The version that decides now; null without a template, or without a readable one."""
    template_changes: list[Difference] = []
    status: str
    enforcement: str | None
    is_proxied: bool
    allow_private_network: bool
    auth_type: str
    tls_ca: str | None
    revision: int
    scanned_at: str | None
    created_at: str
    tool_count: int = 0
    proxy_endpoint: str = ""


class TemplatedServerOut(ServerOut):
    """A server made from a template, with the policies that it brings."""

    policies: list[TemplatePolicyOut]


class ScanOut(Output):
    """What a scan found, by tool name. An incomplete one concludes nothing about what is gone."""

    tools: int
    added: list[str]
    changed: list[str]
    removed: list[str]
    suspects: list[str]
    uncovered: list[str]
    """Tools that no policy of the server's template covers; without a template, no rule."""
    complete: bool


async def list_servers(call: ApiCall, query: ListQuery) -> Listing[ServerOut]:
    def read(connection: Connection) -> tuple[Page[Row[Any]], dict[str, int]]:
        page = servers.listed(connection, call.project_id, query.cursor, query.limit)
        return page, servers.tool_counts(connection, call.project_id)

    page, counts = await call.read(read)
    items = [_shown(call, row, counts.get(row.id, 0)) for row in page.items]
    return Listing(items=items, next_cursor=page.next_cursor)


async def register(call: ApiCall, body: NewServer) -> ServerOut:
    return await call.change(lambda change: _shown(call, servers.register(change, body), 0))


async def register_from_template(call: ApiCall, body: FromTemplate) -> TemplatedServerOut:
    def make(change: Change) -> TemplatedServerOut:
        row = templated_servers.create(change, body)
        policies = policies_of(templates.bound(change.templates, row))
        return TemplatedServerOut(**dict(_shown(call, row, 0)), policies=policies)

    return await call.change(make)


async def accept_version(call: ApiCall, body: NextVersion) -> ServerOut:
    def accept(change: Change) -> ServerOut:
        templated_servers.accept_version(change, call.path["id"], body)
        return _read(call, change.connection)

    return await call.change(accept)


async def get(call: ApiCall) -> ServerOut:
    return await call.read(lambda connection: _read(call, connection))


async def patch(call: ApiCall, body: ServerPatch) -> ServerOut:
    """Change it; activating one that was never scanned scans it first and accepts what it shows."""
    scan = await _scan_before(call, body)

    def change_it(change: Change) -> ServerOut:
        if scan is not None:
            findings = pins.record_scan(change, call.path["id"], scan)
            if not findings.complete:
                raise Conflict("The scan was not complete, so nothing was accepted; scan again.")
        servers.patch(change, call.path["id"], body)
        return _read(call, change.connection)

    return await call.change(change_it)


async def remove(call: ApiCall) -> None:
    await call.change(lambda change: servers.remove(change, call.path["id"]))


async def scan(call: ApiCall) -> ScanOut:
    """Ask the server for its tools now and compare them with what was accepted."""
    found = await call.context.scan(_configured(call))

    def record(change: Change) -> ScanOut:
        findings = pins.record_scan(change, call.path["id"], found)
        return _found(change, call, findings)

    return await call.change(record)


async def _scan_before(call: ApiCall, body: ServerPatch) -> Scan | None:
    sent = body.sent()
    if sent.get("status") != "ACTIVE" or servers.REROUTING & sent.keys():
        return None
    row = await call.read(lambda c: servers.get(c, call.project_id, call.path["id"]))
    return None if row.scanned_at is not None else await call.context.scan(_configured(call))


def _configured(call: ApiCall) -> Server:
    view = call.context.registry.directory.view(call.project_id)
    server = view.servers.get(ServerId(call.path["id"]))
    if server is None:
        raise Missing("server")
    servers.check_reachable(server.url)
    return server


def _read(call: ApiCall, connection: Connection) -> ServerOut:
    row = servers.get(connection, call.project_id, call.path["id"])
    counts = servers.tool_counts(connection, call.project_id)
    return _shown(call, row, counts.get(row.id, 0))


def _shown(call: ApiCall, row: Row[Any], tool_count: int) -> ServerOut:
    endpoint = f"{call.context.public_url}/api/v1/mcp/proxy/{row.id}"
    shown = ServerOut.model_validate(row)
    more: dict[str, Any] = {"tool_count": tool_count, "proxy_endpoint": endpoint}
    template = templates.available(call.context.registry.templates, row)
    if template is not None:
        more["available_version"] = template.version
        found = templates.differences(row, template)
        more["template_changes"] = [Difference.model_validate(one) for one in found]
    return shown.model_copy(update=more)


def _covered(template: Template | None, in_force: list[Row[Any]], tool: Row[Any]) -> bool:
    if template is not None:
        return bool(template.covering(tool.name))
    return bool(rules.covering(in_force, tool))


def _found(change: Change, call: ApiCall, findings: Findings) -> ScanOut:
    in_force = rules.in_force(change.connection, call.project_id, change.now)
    rows = tools.of_server(change.connection, call.path["id"])
    server = servers.get(change.connection, call.project_id, call.path["id"])
    template = templates.available(change.templates, server)
    return ScanOut(
        tools=findings.tools,
        added=findings.added,
        changed=findings.changed,
        removed=findings.removed,
        suspects=findings.suspects,
        uncovered=[row.name for row in rows if not _covered(template, in_force, row)],
        complete=findings.complete,
    )
