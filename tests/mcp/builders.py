"""Callers, requests and permits for tests of the protocol's side."""

import time
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any, cast

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from gateway.mcp.handles import Handles
from gateway.mcp.seals import Seals
from gateway.mcp.upstream import Limits, Upstreams
from gateway.values import (
    Action,
    Approved,
    Call,
    Caller,
    CallId,
    Enforcement,
    Era,
    Key,
    KeyId,
    Permit,
    Project,
    ProjectId,
    Request,
    Role,
    Server,
    ServerId,
)

SEALS = Seals(AESSIV(bytes(64)))
HANDLES = Handles(SEALS)
PRIVATE = (ip_network("127.0.0.0/8"),)
JSON = (b"content-type", b"application/json")
ACCEPT = (b"accept", b"application/json, text/event-stream")
SESSION = (b"mcp-session-id", b"s1")


def upstreams(**limits: Any) -> Upstreams:
    return Upstreams(HANDLES, private_allowed=PRIVATE, limits=Limits(**limits))


def a_server(port: int, **changes: Any) -> Server:
    server = Server(
        id=ServerId("srv_1"),
        project_id=ProjectId("prj_1"),
        slug="crm",
        name="CRM",
        url=f"http://127.0.0.1:{port}/mcp",
        transport="streamable_http",
        template=None,
        params={},
        status="ACTIVE",
        enforcement=None,
        allow_private_network=True,
        auth_headers=((b"authorization", b"Bearer upstream-secret"),),
        revision=1,
    )
    return replace(server, **changes)


def a_caller(server: Server) -> Caller:
    project = Project(
        id=ProjectId("prj_1"),
        slug="acme",
        name="Acme",
        default_action=Action.ALLOW,
        enforcement=Enforcement.ENFORCE,
        deny_style="error",
        on_tool_change="block",
        unknown_tools="deny",
        hide_denied_tools=True,
        weakening=None,
        key_approvers=False,
        approval_ttl_seconds=1800,
        record_inputs="all",
        retention_days=30,
    )
    key = Key(
        id=KeyId("key_1"),
        project_id=project.id,
        role=Role.PROJECT,
        name="agent",
        owner="o",
        agent_id=None,
        server_ids=None,
        may_assert=frozenset(),
        agent_ids=frozenset(),
        expires_at=None,
    )
    return Caller(project, key, None, False, server)


def a_request(body: bytes = b"{}", *headers: tuple[bytes, bytes], method: str = "POST") -> Request:
    return Request(
        method=method,
        server_id="srv_1",
        headers=(JSON, ACCEPT, *headers),
        body=body,
        client_ip="127.0.0.1",
        gone=lambda: False,
    )


@dataclass(frozen=True, slots=True)
class _Approved:
    call: Call


def a_permit(server: Server, request: Request, era: Era = Era.MODERN, rpc_id: Any = 7) -> Permit:
    call = Call(
        id=CallId("trc_1"),
        caller=a_caller(server),
        request=request,
        source="mcp",
        era=era,
        rpc_id=rpc_id,
        tool_name="add",
        arguments={},
        meta={},
        task=None,
        input_responses=None,
        is_retry=False,
        params={},
        session=None,
    )
    approved = cast(Approved, _Approved(call))
    return Permit(approved, b"", time.monotonic() + 1, 0, ())


def a_response(rpc_id: Any = 7, **result: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": rpc_id, "result": result})


def an_answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A plain answer's bytes on the wire."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(body: bytes) -> bytes:
    return b"event: message\ndata: " + body + b"\n\n"
