"""Messages that are no tool calls, before a policy: what is said by clients, and what by servers.

Only a message of a method that the bundle has a policy for is asked about; each such decision is in
the trace before the message goes on.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import orjson
from sqlalchemy.exc import SQLAlchemyError

from gateway.frozen import frozen
from gateway.policy.documents import caller_parts, hashed
from gateway.policy.engine import LARGEST_QUESTION, Engine, EngineFault
from gateway.policy.features import Features
from gateway.policy.risk import as_sent
from gateway.policy.verdicts import verdict_of
from gateway.records.calls import message_draft
from gateway.records.refused_calls import RefusedCalls
from gateway.refusals import Refused
from gateway.registry.directory import ProjectView
from gateway.store.writer import WriterStopped
from gateway.values import Action, Caller, Enforcement, Era, Json, ProjectId, Request

METHOD = b"gateway/method"
RESPONSE = "response"
"""What stands for the method where a client answers a server, whose request nobody kept."""


@frozen
class Exchange:
    """The request that a message came with, or came back on."""

    caller: Caller
    request: Request
    era: Era
    method: str
    session: str | None
    rpc_id: str | int | None
    """Of the request that awaits the answer."""


@frozen
class Said:
    """One message, or a server's request within a result."""

    method: str
    by: Literal["client", "server"]
    params: Mapping[str, Json]


class Methods:
    """Asks `data.gateway.method`; `features` tells for which methods."""

    def __init__(
        self,
        engine: Engine,
        refused_calls: RefusedCalls,
        *,
        features: Callable[[], Features],
        view: Callable[[ProjectId], ProjectView],
        now: Callable[[], str],
    ) -> None:
        self._engine = engine
        self._refused_calls = refused_calls
        self._features = features
        self._view = view
        self._now = now

    def any(self) -> bool:
        """Whether there is a policy for any method but `tools/call`."""
        return self._features().decides_any

    async def check(self, exchange: Exchange, said: Said) -> None:
        """Return when the message may go on. Raises `Refused`."""
        if not self._features().decides(said.method):
            return
        caller = exchange.caller
        question = self._question(exchange, said)
        if len(question) > LARGEST_QUESTION:
            raise Refused("too_large_to_decide")
        try:
            answer = await self._engine.ask(METHOD, question, key=caller.key.id)
            verdict = verdict_of(answer)
        except EngineFault as fault:
            raise Refused("policy_unavailable", detail=str(fault)) from fault
        enforcement = caller.server.enforcement or caller.project.enforcement
        enforced = enforcement is not Enforcement.MONITOR
        denied = None
        if enforced and verdict.action is Action.DENY:
            denied = Refused("policy_denied", {"policy_ids": list(verdict.policy_ids)})
        draft = message_draft(
            caller, exchange.era, said.method, said.by, verdict, enforced, denied, question
        )
        try:
            trace_id = await self._refused_calls.message(caller, draft, denied)
        except (SQLAlchemyError, WriterStopped) as fault:
            raise Refused("trace_unavailable", detail=repr(fault)) from fault
        if denied is not None:
            denied.data["trace_id"] = trace_id
            raise denied

    def _question(self, exchange: Exchange, said: Said) -> bytes:
        caller = exchange.caller
        overrides = self._view(caller.project.id).overrides.get(caller.server.id, ())
        session = exchange.session
        document = {
            **caller_parts(caller, overrides),
            "target": {"method": said.method, "from": said.by, "params": said.params},
            "call": {
                "source": "mcp",
                "method": exchange.method,
                "phase": "method",
                "era": exchange.era,
                "session": None if session is None else hashed(session),
            },
            "context": {"time": self._now(), "client_ip": exchange.request.client_ip},
        }
        return orjson.dumps({"input": document}, default=as_sent)
