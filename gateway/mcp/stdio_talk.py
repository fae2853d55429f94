"""Who is told what a program says: each line goes to the request that it belongs to, or nowhere.

In the legacy era a process serves one session, in the modern era all callers of a server, whose
ids are made unique on their way in and put back, type and value, on their way out.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

import structlog

from gateway.frozen import frozen
from gateway.http1.client import Http1Error, Interrupted, NotSent, TooLarge
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.mcp.stdio_exchange import StdioExchange, error
from gateway.mcp.stdio_process import Child, End, as_line
from gateway.telemetry.logs import fault_text
from gateway.values import Json

_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
_HELD: Final = 64
_HELD_BYTES: Final = 65536
_UNANSWERED: Final = 256

_log = structlog.get_logger(__name__)


class Talk(ABC):
    """What both eras share: a process, and the requests that wait for its answers."""

    def __init__(self, on_gone: Callable[["Talk", bool], None]) -> None:
        """``on_gone`` hears whether the process ever said anything."""
        self._on_gone = on_gone
        self._child: Child | None = None
        self.spoke = False
        self.over = False
        self.used = monotonic()

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether somebody waits for it or listens to it."""

    def begin(self, child: Child) -> None:
        self._child = child

    def hear(self, line: bytes) -> None:
        """A line of the program's. One that is no JSON-RPC message is left out."""
        try:
            message = read_json(line)
            line = as_line(line)
        except Unreadable as fault:
            _log.warning("a line is no message", why=fault_text(fault))
            return
        if not isinstance(message, dict):
            return
        self.spoke = True
        self.used = monotonic()
        self._route(message, line)

    def gone(self, how: End) -> None:
        self.over = True
        fault: Http1Error = Interrupted("the server's process has ended")
        if how == "too_large":
            fault = TooLarge("the server's process sent too long a line")
        for exchange in self._all():
            exchange.fail(fault)
        self._on_gone(self, self.spoke)

    def end(self) -> None:
        if self._child is not None:
            self._child.end()

    def check(self) -> None:
        """Raises `NotSent`."""
        if self.over:
            raise NotSent("the server's process has ended")
        self.child.check_ready()

    @abstractmethod
    def _route(self, message: dict[str, Any], line: bytes) -> None:
        """Give a line to whom it belongs."""

    @abstractmethod
    def _all(self) -> list[StdioExchange]:
        """Whoever must hear that the process is gone."""


class Session(Talk):
    """A session of the legacy era and its process."""

    def __init__(self, on_gone: Callable[[Talk, bool], None]) -> None:
        super().__init__(on_gone)
        self._waiting: dict[str | int, tuple[StdioExchange, Json]] = {}
        self._asked: set[str | int] = set()
        self._held: deque[bytes] = deque(maxlen=_HELD)
        self.listener: StdioExchange | None = None

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self.listener is not None

    def knows(self, rpc_id: str | int) -> bool:
        return rpc_id in self._waiting

    def ask(self, rpc_id: str | int, token: Json, exchange: StdioExchange, line: bytes) -> None:
        self.used = monotonic()
        self._waiting[rpc_id] = exchange, token
        self.child.write(line)

    def forget(self, rpc_id: str | int) -> None:
        self._waiting.pop(rpc_id, None)

    def tell(self, line: bytes) -> None:
        self.used = monotonic()
        self.child.write(line)

    def expects(self, rpc_id: str | int | None) -> bool:
        """Whether a client's response answers something that the program asked, once."""
        if rpc_id is None or rpc_id not in self._asked:
            return False
        self._asked.discard(rpc_id)
        return True

    def listen(self, exchange: StdioExchange) -> None:
        self.listener = exchange
        while self._held:
            exchange.put(self._held.popleft())

    def _route(self, message: dict[str, Any], line: bytes) -> None:
        rpc_id = message.get("id")
        if "method" not in message:
            if type(rpc_id) in (int, str) and rpc_id in self._waiting:
                self._waiting.pop(rpc_id)[0].put(line, last=True)
            return
        if rpc_id is not None:
            self._pass_question(rpc_id, line)
            return
        target = self._by_token(message) or self.listener
        if target is None and len(line) <= _HELD_BYTES:
            self._held.append(line)
        elif target is not None:
            target.put(line)

    def _pass_question(self, rpc_id: Any, line: bytes) -> None:
        target = self._newest() or self.listener
        usable = type(rpc_id) in (int, str) and len(self._asked) < _UNANSWERED
        if target is None or not usable:
            refusal = error(rpc_id, -32603, "No client listens; nobody can be asked now.")
            self.child.write(write_json(refusal))
            return
        self._asked.add(rpc_id)
        target.put(line)

    def _by_token(self, message: dict[str, Any]) -> StdioExchange | None:
        params = message.get("params")
        token = params.get("progressToken") if isinstance(params, dict) else None
        if token is not None:
            for exchange, wanted in self._waiting.values():
                if type(wanted) is type(token) and wanted == token:
                    return exchange
        if message.get("method") == "notifications/message":
            return self._newest()
        return None

    def _newest(self) -> StdioExchange | None:
        return next(reversed(self._waiting.values()))[0] if self._waiting else None

    def _all(self) -> list[StdioExchange]:
        listening = [] if self.listener is None else [self.listener]
        return [*(exchange for exchange, _ in self._waiting.values()), *listening]


@frozen
class _Renamed:
    exchange: StdioExchange
    rpc_id: str | int
    token: Json


class Shared(Talk):
    """The process that all callers of a server share in the modern era."""

    def __init__(self, on_gone: Callable[[Talk, bool], None]) -> None:
        super().__init__(on_gone)
        self._waiting: dict[int, _Renamed] = {}
        self._last = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def ask(self, message: Mapping[str, Any], exchange: StdioExchange) -> int:
        """Send a request under an id of its own, which is returned."""
        self.used = monotonic()
        self._last += 1
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, Mapping) else None
        token = meta.get("progressToken") if isinstance(meta, Mapping) else None
        asked = {**message, "id": self._last}
        if token is not None:
            assert isinstance(params, Mapping)
            assert isinstance(meta, Mapping)
            asked["params"] = {**params, "_meta": {**meta, "progressToken": self._last}}
        self._waiting[self._last] = _Renamed(exchange, message["id"], token)
        self.child.write(as_line(write_json(asked)))
        return self._last

    def give_up(self, own: int) -> None:
        """In the modern era who hangs up cancels; on stdio a message is what says so."""
        if self._waiting.pop(own, None) is not None and not self.over:
            params = {"requestId": own, "reason": "the caller left"}
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            self.child.write(write_json(cancelled))

    def _route(self, message: dict[str, Any], line: bytes) -> None:
        rpc_id = message.get("id")
        if "method" not in message:
            if type(rpc_id) is int and rpc_id in self._waiting:
                renamed = self._waiting.pop(rpc_id)
                answer = {**message, "id": renamed.rpc_id}
                result = _subscribed(answer.get("result"), renamed.rpc_id)
                if "result" in answer:
                    answer["result"] = result
                renamed.exchange.put(as_line(write_json(answer)), last=True)
        elif rpc_id is not None:
            refusal = error(rpc_id, -32601, "This revision has no requests to clients.")
            self.child.write(write_json(refusal))
        else:
            self._notify(message)

    def _notify(self, message: dict[str, Any]) -> None:
        """Passed on only where it says whose it is: others' callers may not hear it."""
        params = message.get("params")
        if not isinstance(params, dict):
            return
        meta = params.get("_meta")
        own = meta.get(_SUBSCRIPTION) if isinstance(meta, dict) else None
        for named in (own, params.get("progressToken"), params.get("requestId")):
            renamed = self._waiting.get(named) if type(named) is int else None
            if renamed is not None:
                break
        else:
            return
        told = {**params}
        if "progressToken" in told:
            told["progressToken"] = renamed.token
        if "requestId" in told:
            told["requestId"] = renamed.rpc_id
        told = _subscribed(told, renamed.rpc_id)
        renamed.exchange.put(as_line(write_json({**message, "params": told})))

    def _all(self) -> list[StdioExchange]:
        return [renamed.exchange for renamed in self._waiting.values()]


def _subscribed(value: Any, rpc_id: str | int) -> Any:
    meta = value.get("_meta") if isinstance(value, dict) else None
    if not isinstance(meta, dict) or _SUBSCRIPTION not in meta:
        return value
    return {**value, "_meta": {**meta, _SUBSCRIPTION: rpc_id}}
