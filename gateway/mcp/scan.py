"""A walk through all the tools that a server offers, by a small MCP client of the gateway's own.

It speaks the newest revision first and falls back to the handshake of the older ones, as clients
do. Definitions are kept exactly as the server sent them, for digests are made of them.
"""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

import orjson

from gateway.frozen import frozen
from gateway.http1.client import Http1Error, NotSent, TooLarge
from gateway.mcp.headers import Header, value_of
from gateway.mcp.listing import read_page
from gateway.mcp.lossless import Unreadable, read_json
from gateway.mcp.routes import Exchange, Route
from gateway.mcp.sse import EventScanner, response_in
from gateway.mcp.sse_answers import SseAnswer
from gateway.mcp.sse_session import Way
from gateway.mcp.tokens import NoToken
from gateway.mcp.upstream import Upstreams
from gateway.registry.pins import MOST_TOOLS
from gateway.values import Json, Server

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
_PREFIX: Final = "io.modelcontextprotocol/"
_CLIENT: Final = {"name": "policy-gateway", "version": "0.1.0"}


class ScanFailed(Exception):
    """The server could not be scanned; the text says why and what to do."""


@frozen
class ScanLimits:
    seconds: float = 60.0
    """For all of it."""
    pages: int = 100
    tools: int = MOST_TOOLS
    answer_bytes: int = 4 * 1024 * 1024
    """One answer, a stream's events before it included."""


@frozen
class Walk:
    """What a server offers. Only a complete walk shows that a tool is gone."""

    definitions: tuple[Mapping[str, Json], ...]
    complete: bool
    incomplete_because: str
    """Why it is not complete; empty when it is."""
    protocol_version: str
    server_info: Mapping[str, Json]
    instructions: str | None


async def scan(
    upstreams: Upstreams,
    server: Server,
    limits: ScanLimits | None = None,
    told: Callable[[int], None] = lambda _tools: None,
) -> Walk:
    """Ask a server for all its tools; `told` how many there are after each page.

    Raises `ScanFailed`.
    """
    limits = limits or ScanLimits()
    try:
        async with asyncio.timeout(limits.seconds):
            route = upstreams.route(server)
            credential = await upstreams.credential(server)
            return await _scan(_Talk(upstreams, server, route, credential, limits, told))
    except TimeoutError:
        raise ScanFailed(
            f"The scan took longer than {limits.seconds:.0f} seconds; see whether the server is "
            "overloaded, then scan again."
        ) from None
    except NoToken as fault:
        raise ScanFailed(f"There is no access token for the server: {fault.why}.") from None
    except NotSent as fault:
        raise ScanFailed(f"The server cannot be reached: {fault.why}. Check its URL.") from None
    except TooLarge:
        raise ScanFailed(
            f"The server sent an answer of more than {limits.answer_bytes} bytes; it must page "
            "its list of tools."
        ) from None
    except Http1Error as fault:
        raise ScanFailed(f"The server did not answer as HTTP/1.1 asks: {fault.why}.") from None
    except Unreadable as fault:
        raise ScanFailed(f"The server's answer cannot be used: {fault}.") from None


async def _scan(talk: "_Talk") -> Walk:
    greeting = await _discover(talk) or await _initialize(talk)
    try:
        return await _walk(talk, greeting)
    finally:
        await talk.leave()


async def _discover(talk: "_Talk") -> dict[str, Json] | None:
    """The modern era's greeting, or None from a server that does not know it.

    Servers of the older revisions refuse it in many ways, so any error means that; not so the
    errors that speak of the gateway's credential or address, which `ask` raises.
    """
    talk.speak_modern()
    answer = await talk.ask("server/discover", {})
    result = answer.get("result")
    if not isinstance(result, dict):
        return None
    versions = result.get("supportedVersions")
    return result if isinstance(versions, list) and MODERN in versions else None


async def _initialize(talk: "_Talk") -> dict[str, Json]:
    talk.speak_legacy()
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": _CLIENT}
    greeting = _result(await talk.ask("initialize", params), "initialize")
    version = greeting.get("protocolVersion")
    if not isinstance(version, str) or not version.isascii() or not version.isprintable():
        raise ScanFailed("The server's `initialize` answer names no protocol version; update it.")
    talk.version = version
    await talk.tell("notifications/initialized")
    return greeting


async def _walk(talk: "_Talk", greeting: dict[str, Json]) -> Walk:
    definitions: list[Mapping[str, Json]] = []
    because = ""
    capabilities = greeting.get("capabilities")
    if not isinstance(capabilities, dict) or "tools" in capabilities:
        because = await _pages(talk, definitions)
    instructions = greeting.get("instructions")
    return Walk(
        definitions=tuple(definitions),
        complete=not because,
        incomplete_because=because,
        protocol_version=talk.version,
        server_info=_server_info(greeting),
        instructions=instructions if isinstance(instructions, str) else None,
    )


def _server_info(greeting: dict[str, Json]) -> dict[str, Json]:
    """In `_meta` since 2026-07-28 (basic/index, "_meta"), before it in the greeting itself."""
    meta = greeting.get("_meta")
    if isinstance(meta, dict) and isinstance(meta.get(f"{_PREFIX}serverInfo"), dict):
        return dict(meta[f"{_PREFIX}serverInfo"])
    info = greeting.get("serverInfo")
    return info if isinstance(info, dict) else {}


async def _pages(talk: "_Talk", definitions: list[Mapping[str, Json]]) -> str:
    """Collect all pages; return why the walk is not complete, or nothing."""
    params: dict[str, Json] = {}
    seen: set[str] = set()
    for _ in range(talk.limits.pages):
        answer = await talk.ask("tools/list", params)
        _result(answer, "tools/list")
        page = read_page(talk.last_message)
        if page is None:
            raise ScanFailed("The server's `tools/list` answer holds no tools; update the server.")
        definitions += page.definitions
        talk.told(len(definitions))
        cursor = page.next_cursor
        if cursor is None:
            return ""
        if not isinstance(cursor, str):
            return "a cursor is not a string"
        if cursor in seen:
            return "the server's cursors go in a circle"
        if len(definitions) > talk.limits.tools:
            return f"the server lists more than {talk.limits.tools} tools"
        seen.add(cursor)
        params = {"cursor": cursor}
    return f"the server's list has more than {talk.limits.pages} pages"


def _result(answer: dict[str, Json], method: str) -> dict[str, Json]:
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    error = answer.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    said = f"error {code}" if isinstance(code, int) else "no result"
    raise ScanFailed(f"The server answered `{method}` with {said}; see the server's own log.")


class _Talk:
    """One conversation: headers of the era, the session, ids."""

    def __init__(
        self,
        upstreams: Upstreams,
        server: Server,
        route: Route,
        credential: tuple[Header, ...],
        limits: ScanLimits,
        told: Callable[[int], None],
    ) -> None:
        self.limits = limits
        self.told = told
        self._upstreams = upstreams
        self._server = server
        self._credential = credential
        self.version = MODERN
        self.last_message = b""
        self._route = route
        self._modern = True
        self._session = b""
        self._next_id = 0
        self._due = monotonic() + limits.seconds

    def speak_modern(self) -> None:
        self._modern, self.version = True, MODERN

    def speak_legacy(self) -> None:
        self._modern, self.version = False, ""

    async def ask(self, method: str, params: dict[str, Json]) -> dict[str, Json]:
        """Send a request and return its response, also where HTTP says that it failed.

        Raises `ScanFailed` when the status speaks of the credential or the address.
        """
        self._next_id += 1
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": self._next_id, "method": method}
        message["params"] = {**params, "_meta": _meta()} if self._modern else params
        exchange = await self._send("POST", orjson.dumps(message), method)
        try:
            _check_status(exchange)
            if not self._modern and not self._session:
                self._session = value_of(exchange.headers, b"mcp-session-id")
            body = await self._body(exchange, self._next_id)
        finally:
            exchange.close()
        self.last_message = body
        return self._message(body, exchange.status)

    async def tell(self, method: str) -> None:
        message = orjson.dumps({"jsonrpc": "2.0", "method": method})
        exchange = await self._send("POST", message, method)
        _check_status(exchange)
        exchange.close()

    async def leave(self) -> None:
        """End a session that the server gave us; that it may refuse to is no fault of the scan."""
        if not self._session:
            return
        try:
            exchange = await self._send("DELETE", b"", "")
            exchange.close()
        except Http1Error:
            return

    async def _send(self, verb: str, body: bytes, method: str) -> Exchange | SseAnswer:
        route = self._route
        if self._server.transport == "sse":
            way = Way(self._server, route, self._credential)
            headers = self._headers(verb, method)
            return await self._upstreams.converse(way, verb, headers, body, deadline=self._due)
        length = len(body) if verb == "POST" else None
        head = route.head(verb, self._headers(verb, method), length)
        return await route.client.open(head, body, deadline=self._due)

    def _headers(self, verb: str, method: str) -> list[Header]:
        headers = [*self._credential, (b"accept", b"application/json, text/event-stream")]
        if verb == "POST":
            headers.append((b"content-type", b"application/json"))
        if self.version:
            headers.append((b"mcp-protocol-version", self.version.encode()))
        if self._modern:
            headers.append((b"mcp-method", method.encode()))
        if self._session:
            headers.append((b"mcp-session-id", self._session))
        return headers

    async def _body(self, exchange: Exchange | SseAnswer, rpc_id: int) -> bytes:
        if exchange.content_type != "text/event-stream":
            return await exchange.read(self.limits.answer_bytes)
        scanner = EventScanner(self.limits.answer_bytes)
        size = 0
        async for chunk in exchange:
            size += len(chunk)
            if size > self.limits.answer_bytes:
                raise TooLarge("a stream without an answer")
            for event in scanner.feed(chunk):
                if event.data and response_in(event.data, rpc_id):
                    return event.data
        raise Unreadable("its stream ended without the answer")

    def _message(self, body: bytes, status: int) -> dict[str, Json]:
        if status >= 400:
            # Servers refuse with JSON-RPC, with text, or with nothing.
            try:
                message = read_json(body)
            except Unreadable:
                message = None
            return message if isinstance(message, dict) else {"error": {"code": status}}
        message = read_json(body)
        if not isinstance(message, dict) or message.get("id") != self._next_id:
            raise Unreadable("it is no response to the request that was sent")
        return message


def _meta() -> dict[str, Json]:
    return {
        f"{_PREFIX}protocolVersion": MODERN,
        f"{_PREFIX}clientCapabilities": {},
        f"{_PREFIX}clientInfo": _CLIENT,
    }


def _check_status(exchange: Exchange | SseAnswer) -> None:
    status = exchange.status
    if status in (401, 403):
        raise ScanFailed(
            f"The server refused the gateway's credential (HTTP {status}); set the server's `auth`."
        )
    if 300 <= status < 400:
        raise ScanFailed(
            f"The server redirects (HTTP {status}), which is not followed; register the URL that "
            "it redirects to."
        )
