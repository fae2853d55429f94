"""Where sessions, events, tasks and states are named in messages: sealed outward, opened inward.

Outward is what an upstream says, inward what a client says. Bytes in which no such name stands are
not touched. A name that is overlooked outward stays the upstream's own, and does not open inward.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from gateway.mcp.declared import shows_pages
from gateway.mcp.envelope import ClientResponse, Message, RequestMessage
from gateway.mcp.headers import Header
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.mcp.routing import header_value
from gateway.mcp.seals import Kind, Seals
from gateway.mcp.sse import Event, with_data
from gateway.values import Caller, Json, Request

_Path = tuple[str, ...]
"""Keys from an object to a name; ``*`` is every item of a list."""
_Places = Mapping[_Path, Kind]

_HEADERS: Mapping[bytes, Kind] = {b"mcp-session-id": "session", b"last-event-id": "event"}
_RELATED: _Path = ("_meta", "io.modelcontextprotocol/related-task", "taskId")
_LISTENED: _Path = ("notifications", "taskIds", "*")
_OF_REQUESTS: _Places = {("requestState",): "state", _RELATED: "task", _LISTENED: "task"}
_OF_RESULTS: _Places = {
    ("requestState",): "state",
    ("taskId",): "task",
    ("task", "taskId"): "task",
    ("tasks", "*", "taskId"): "task",
    _RELATED: "task",
}
_OF_NOTIFICATIONS: _Places = {("taskId",): "task", _RELATED: "task", _LISTENED: "task"}
# A client has tasks of its own, which servers ask about, and it answers with.
_OF_THE_OTHER_SIDE: _Places = {_RELATED: "task"}
_TASK_ID, _REQUEST_STATE = b"taskId", b"requestState"
# No encoder escapes letters of ASCII; who does may be hiding a name from what stands in between.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
# A field named `id`, with a value that clients take up (WHATWG HTML, section 9.2.6).
_EVENT_ID = re.compile(rb"(id: ?)([^\r\n\x00]+)(?=[\r\n]|\Z)")


class Handles:
    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def is_own_state(self, caller: Caller, state: str) -> bool:
        """Whether a `requestState` is one that this caller was given."""
        return self._seals.opens("state", caller, state.encode())

    def inward(self, caller: Caller, request: Request, message: Message | None) -> Request:
        """The request with the upstream's names; ``message`` is its body, parsed."""

        def opened(kind: Kind, name: str) -> str:
            return self._seals.open(kind, caller, name.encode()).decode()

        body, task = request.body, None
        if isinstance(message, ClientResponse):
            body = self._response_inward(caller, body)
        elif message is not None:
            places = _OF_REQUESTS
            if message.method.startswith("tasks/"):
                places = {**places, ("taskId",): "task"}
            # Of most calls the bytes show that no key of theirs names any of these places.
            named = _TASK_ID in body or _REQUEST_STATE in body or b"\\u" in body
            params = _renamed(message.params, places, opened) if named else message.params
            if params is not message.params:
                body = write_json({**read_json(body), "params": params})
                task = params.get("taskId")
        headers, pages = self._headers_inward(caller, request.headers, task)
        pages = pages or _begins_with_pages(message)
        if headers is request.headers and body is request.body and not pages:
            return request
        return replace(request, headers=headers, body=body, shows_pages=pages)

    def headers_outward(
        self, caller: Caller, headers: tuple[Header, ...], *, shows_pages: bool = False
    ) -> tuple[Header, ...]:
        """``shows_pages`` is kept in the session's name: it is declared once, and outlives us."""
        kind: Kind = "session+pages" if shows_pages else "session"
        return tuple(
            (name, self._seals.seal(kind, caller, value))
            if name == b"mcp-session-id" and value
            else (name, value)
            for name, value in headers
        )

    def body_outward(self, caller: Caller, body: bytes) -> bytes:
        """A message of the upstream's, or several in an array."""
        named = _TASK_ID in body or _REQUEST_STATE in body
        # The letters' escapes are looked for only where there is an escape at all.
        if not named and (b"\\u" not in body or not _ESCAPED_LETTER.search(body)):
            return body
        try:
            found = read_json(body)
        except Unreadable:
            return body
        if isinstance(found, list):
            renamed = [self._message_outward(caller, message) for message in found]
            same = all(new is old for new, old in zip(renamed, found, strict=True))
            return body if same else write_json(renamed)
        message = self._message_outward(caller, found)
        return body if message is found else write_json(message)

    def event_outward(self, caller: Caller, event: Event) -> Event:
        raw, data = event.raw, event.data
        if b"id:" in raw:
            raw = _EVENT_ID.sub(lambda found: self._event_id(caller, found), raw)
        if data and (sealed := self.body_outward(caller, data)) is not data:
            raw, data = with_data(raw, sealed), sealed
        return event if raw == event.raw else replace(event, raw=raw, data=data)

    def _event_id(self, caller: Caller, found: re.Match[bytes]) -> bytes:
        start = found.start()
        if start and found.string[start - 1] not in b"\r\n":
            return found[0]
        return found[1] + self._seals.seal("event", caller, found[2])

    def _headers_inward(
        self, caller: Caller, headers: tuple[Header, ...], task: str | None
    ) -> tuple[tuple[Header, ...], bool]:
        """The headers, and whether the session is one whose client shows pages."""
        opened = []
        pages = False
        for name, value in headers:
            if value and (kind := _HEADERS.get(name)) is not None:
                if kind == "session" and not self._seals.opens(kind, caller, value):
                    pages = self._seals.opens("session+pages", caller, value)
                    kind = "session+pages" if pages else kind
                opened.append((name, self._seals.open(kind, caller, value)))
            elif task is not None and name == b"mcp-name":
                opened.append((name, header_value(task)))
        if not opened:
            return headers, False
        renamed = dict(opened)  # the parser lets none of them stand twice
        return tuple((name, renamed.get(name, value)) for name, value in headers), pages

    def _response_inward(self, caller: Caller, body: bytes) -> bytes:
        if b"related-task" not in body:
            return body

        def opened(kind: Kind, name: str) -> str:
            sealed = name.encode()
            own = self._seals.opens(kind, caller, sealed)
            return self._seals.open(kind, caller, sealed).decode() if own else name

        message = read_json(body)
        result = _renamed(message.get("result"), _OF_THE_OTHER_SIDE, opened)
        return write_json({**message, "result": result})

    def _message_outward(self, caller: Caller, message: Json) -> Json:
        if not isinstance(message, Mapping):
            return message
        part, places = "result", _OF_RESULTS
        if "method" in message:
            part = "params"
            places = _OF_THE_OTHER_SIDE if "id" in message else _OF_NOTIFICATIONS

        def sealed(kind: Kind, name: str) -> str:
            return self._seals.seal(kind, caller, name.encode()).decode()

        inner = _renamed(message.get(part), places, sealed)
        return message if inner is message.get(part) else {**message, part: inner}


def _begins_with_pages(message: Message | None) -> bool:
    """Whether a session begins here whose client shows pages (2025-11-25, "Initialization")."""
    if not isinstance(message, RequestMessage) or message.method != "initialize":
        return False
    return shows_pages(message.params.get("capabilities"))


def _renamed(value: Json, places: _Places, rename: Callable[[Kind, str], str]) -> Json:
    """The same object when there is no name in any of the places."""
    for path, kind in places.items():
        value = _at(value, path, partial(rename, kind))
    return value


def _at(value: Json, path: Sequence[str], rename: Callable[[str], str]) -> Json:
    if not path:
        return rename(value) if isinstance(value, str) else value
    key, *rest = path
    if key == "*" and isinstance(value, list):
        return [_at(item, rest, rename) for item in value] or value
    if not isinstance(value, Mapping) or key not in value:
        return value
    inner = _at(value[key], rest, rename)
    return value if inner is value[key] else {**value, key: inner}
