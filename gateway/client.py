"""For agents of one's own: ask before a tool call, report afterwards.

    gateway = Gateway("https://gateway.example.com", key, server_id="srv_…")

    @gateway.guard(risk="HIGH")
    def delete_record(id: str) -> None: ...

A guarded call is decided first; `Denied` or `ApprovalNeeded` is raised in its place, and what
became of it is reported. When the gateway cannot be asked, nothing is called, unless `on_failure`
is ``by_risk`` and the tool is said to be LOW or MEDIUM. `AsyncGateway` is the same for coroutines.
"""

import asyncio
import contextlib
import functools
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

import httpx

RiskLevel = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]
OnFailure = Literal["block", "by_risk"]

P = ParamSpec("P")
R = TypeVar("R")

SECONDS = 2.0
"""For one attempt."""
_PAUSES = (0.1, 0.4)
"""Before another attempt: an event keeps its id, so that the same one twice is one."""
_AGAIN = frozenset({429, 502, 503, 504})
_MILD = frozenset({"LOW", "MEDIUM"})


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gateway says of a call. Without a `trace_id` it could not be asked."""

    event_id: str
    decision: Literal["PASSED", "FLAGGED", "PENDING_APPROVAL", "BLOCKED"]
    reason: str = ""
    reason_code: str = ""
    trace_id: str = ""
    policy_id: str | None = None
    risk_level: str | None = None
    approval_id: str | None = None
    expires_at: str | None = None
    failed_open: bool = False

    @property
    def allowed(self) -> bool:
        return self.decision in ("PASSED", "FLAGGED")


class NotAllowed(Exception):
    """Base of both: the call was not made."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason or decision.decision)
        self.decision = decision


class Denied(NotAllowed):
    pass


class ApprovalNeeded(NotAllowed):
    """The same call passes once, after a person has approved `decision.approval_id`."""


@dataclass(frozen=True, slots=True)
class _Client:
    """What both clients know; neither waits nor sends."""

    url: str
    key: str
    server_id: str | None
    agent_id: str | None
    on_failure: OnFailure

    def request(self, event: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "url": f"{self.url.rstrip('/')}/api/v1/webhooks/ingest",
            "json": {name: value for name, value in event.items() if value is not None},
            "headers": {"Authorization": f"Bearer {self.key}"},
        }

    def asked(
        self, tool: str, arguments: Mapping[str, Any], event_id: str | None, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "event_id": event_id or uuid.uuid4().hex,
            "event_type": "tool_call.requested",
            "mode": "decide",
            "server_id": self.server_id,
            "agent_id": self.agent_id,
            "tool": {"name": tool, "arguments": dict(arguments)},
            **more,
        }

    def outcome(self, decision: Decision, status: str, error: str | None) -> dict[str, Any]:
        return {
            "event_id": f"{decision.event_id}/outcome",
            "event_type": "tool_call.completed" if error is None else "tool_call.failed",
            "server_id": self.server_id,
            "agent_id": self.agent_id,
            "trace_id": decision.trace_id,
            "outcome": {"status": status, "error": error},
        }

    def decided(
        self, event: Mapping[str, Any], answer: httpx.Response | None, risk: RiskLevel
    ) -> Decision:
        if answer is not None and answer.status_code in (200, 202, 403):
            try:
                found = answer.json()
                names = Decision.__slots__
                return Decision(**{name: found[name] for name in names if name in found})
            except (ValueError, TypeError):
                answer = None  # not the gateway's words
        may_pass = self.on_failure == "by_risk" and risk in _MILD and _is_down(answer)
        return Decision(
            event_id=str(event["event_id"]),
            decision="PASSED" if may_pass else "BLOCKED",
            reason=_told(answer),
            reason_code="gateway_unavailable" if _is_down(answer) else "gateway_refused",
            failed_open=may_pass,
        )


class Gateway:
    """For ordinary functions. One may be used by several threads."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        server_id: str | None = None,
        agent_id: str | None = None,
        on_failure: OnFailure = "block",
        http: httpx.Client | None = None,
    ) -> None:
        self._client = _Client(url, key, server_id, agent_id, on_failure)
        self._http = http or httpx.Client(timeout=SECONDS, trust_env=False)

    def decide(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        risk: RiskLevel = "HIGH",
        event_id: str | None = None,
        **more: Any,
    ) -> Decision:
        """Ask; `more` are other members of the event, such as ``user`` or ``session_id``."""
        event = self._client.asked(tool, arguments, event_id, more)
        return self._client.decided(event, self._sent(event), risk)

    def report(self, decision: Decision, *, status: str = "ok", error: str | None = None) -> bool:
        """Say what became of the call; whether it was taken."""
        if not decision.trace_id:
            return False
        answer = self._sent(self._client.outcome(decision, status, error))
        return answer is not None and answer.is_success

    def guard(
        self, *, risk: RiskLevel = "HIGH", name: str | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Have each call of a function decided, by its name and arguments."""

        def wrap(function: Callable[P, R]) -> Callable[P, R]:
            tool = name or function.__name__

            @functools.wraps(function)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
                decision = self.decide(tool, _arguments(function, args, kwargs), risk=risk)
                _must_be_allowed(decision)
                try:
                    result = function(*args, **kwargs)
                except BaseException as fault:
                    self.report(decision, status="failed", error=type(fault).__name__)
                    raise
                self.report(decision)
                return result

            return guarded

        return wrap

    def _sent(self, event: Mapping[str, Any]) -> httpx.Response | None:
        for pause in (*_PAUSES, None):
            answer: httpx.Response | None = None
            with contextlib.suppress(httpx.TransportError):
                answer = self._http.post(**self._client.request(event))
            if pause is None or (answer is not None and answer.status_code not in _AGAIN):
                return answer
            time.sleep(pause)
        return None

    def close(self) -> None:
        self._http.close()


class AsyncGateway:
    """For coroutines."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        server_id: str | None = None,
        agent_id: str | None = None,
        on_failure: OnFailure = "block",
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._client = _Client(url, key, server_id, agent_id, on_failure)
        self._http = http or httpx.AsyncClient(timeout=SECONDS, trust_env=False)

    async def decide(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        risk: RiskLevel = "HIGH",
        event_id: str | None = None,
        **more: Any,
    ) -> Decision:
        """As `Gateway.decide`."""
        event = self._client.asked(tool, arguments, event_id, more)
        return self._client.decided(event, await self._sent(event), risk)

    async def report(
        self, decision: Decision, *, status: str = "ok", error: str | None = None
    ) -> bool:
        """As `Gateway.report`."""
        if not decision.trace_id:
            return False
        answer = await self._sent(self._client.outcome(decision, status, error))
        return answer is not None and answer.is_success

    def guard(
        self, *, risk: RiskLevel = "HIGH", name: str | None = None
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """As `Gateway.guard`, for coroutine functions."""

        def wrap(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            tool = name or str(getattr(function, "__name__", "tool"))

            @functools.wraps(function)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
                arguments = _arguments(function, args, kwargs)
                decision = await self.decide(tool, arguments, risk=risk)
                _must_be_allowed(decision)
                try:
                    result = await function(*args, **kwargs)
                except BaseException as fault:
                    error = type(fault).__name__
                    await asyncio.shield(self.report(decision, status="failed", error=error))
                    raise
                await self.report(decision)
                return result

            return guarded

        return wrap

    async def _sent(self, event: Mapping[str, Any]) -> httpx.Response | None:
        for pause in (*_PAUSES, None):
            answer: httpx.Response | None = None
            with contextlib.suppress(httpx.TransportError):
                answer = await self._http.post(**self._client.request(event))
            if pause is None or (answer is not None and answer.status_code not in _AGAIN):
                return answer
            await asyncio.sleep(pause)
        return None

    async def aclose(self) -> None:
        await self._http.aclose()


def _arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The call's arguments by name, defaults included: a policy must see what will run."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}


def _must_be_allowed(decision: Decision) -> None:
    if decision.decision == "PENDING_APPROVAL":
        raise ApprovalNeeded(decision)
    if not decision.allowed:
        raise Denied(decision)


def _is_down(answer: httpx.Response | None) -> bool:
    """Whether there is no gateway that could decide: one that refuses a key, or a flood, is."""
    return answer is None or answer.status_code in _AGAIN - {429}


def _told(answer: httpx.Response | None) -> str:
    if answer is None:
        return "The gateway cannot be reached."
    return f"The gateway answered {answer.status_code}; nothing was decided."
