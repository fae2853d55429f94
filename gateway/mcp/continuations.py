"""States of our own in `requestState`: what a call that asked a person, or went on after one did,
brings back with its retry.

A state is sealed for project, key and server. It approves nothing by itself: it names an approval,
which the database then has, or has not, for exactly this call.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import orjson

from gateway.frozen import frozen
from gateway.mcp.envelope import RequestMessage
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.mcp.seals import Seals
from gateway.rounds import Continuation
from gateway.values import Caller, Json, Request

_OF_A_ROUND: Final = ("requestState", "inputResponses")


@frozen
class Resumed:
    """A call as it would have come without us: our state is gone, the upstream's is back."""

    request: Request
    message: RequestMessage
    continues: Continuation | None
    """The approval under which the upstream asked for input; None while a person is asked."""
    own: bool
    """Whether there was a state of ours at all."""


class Continuations:
    def __init__(self, seals: Seals) -> None:
        self._seals = seals

    def resume(self, caller: Caller, request: Request, message: RequestMessage) -> Resumed:
        """Open our state, if the call bears one; any other is left to whom it belongs."""
        state = message.params.get("requestState")
        found = None if state is None else self._opened(caller, state)
        if found is None:
            return Resumed(request, message, None, own=False)
        params = {k: v for k, v in message.params.items() if k not in _OF_A_ROUND}
        if found["round"] is None:
            params |= found["kept"]
            continues = None
        else:
            # The upstream's own question was answered: the answers are for it.
            params |= {k: v for k, v in message.params.items() if k == "inputResponses"}
            params |= found["kept"]
            approval = str(found["approval"])
            continues = Continuation(approval, found["round"], found["base"])
        body = write_json({**read_json(request.body), "params": params})
        return Resumed(
            replace(request, body=body), replace(message, params=params), continues, own=True
        )

    def asking(self, caller: Caller, approval_id: str, params: Mapping[str, Json]) -> str:
        """The state of a call that waits for a person; it keeps what an upstream gave earlier."""
        return self._seal(caller, approval_id, None, of_a_round(params), {})

    def under(self, caller: Caller, grant: Continuation, data: bytes) -> bytes:
        """The upstream's answer to an approved call; where it asks for input, with our state."""
        if b"input_required" not in data:
            return data
        try:
            message = read_json(data)
        except Unreadable:
            return data
        result = message.get("result") if isinstance(message, dict) else None
        if not isinstance(result, dict) or result.get("resultType") != "input_required":
            return data
        kept = {k: v for k, v in result.items() if k == "requestState"}
        state = self._seal(caller, grant.approval_id, grant.round, kept, grant.base)
        return write_json({**message, "result": {**result, "requestState": state}})

    def _seal(
        self,
        caller: Caller,
        approval_id: str,
        round_: int | None,
        kept: Mapping[str, Json],
        base: Mapping[str, Json],
    ) -> str:
        state = {"approval": approval_id, "round": round_, "kept": kept, "base": base}
        return self._seals.seal("approval", caller, write_json(state)).decode()

    def _opened(self, caller: Caller, state: str) -> dict[str, Json] | None:
        sealed = state.encode()
        if not self._seals.opens("approval", caller, sealed):
            return None
        opened: dict[str, Json] = read_json(self._seals.open("approval", caller, sealed))
        return opened


def of_a_round(params: Mapping[str, Json]) -> dict[str, Json]:
    """What of a call's params belongs to one round of questions, not to the call itself."""
    return {k: params[k] for k in _OF_A_ROUND if params.get(k) is not None}


def bound(params: Mapping[str, Json], continues: Continuation | None) -> Mapping[str, Json]:
    """The params to which the approval was given, under which the call goes on."""
    if continues is None:
        return params
    return {k: v for k, v in params.items() if k not in _OF_A_ROUND} | dict(continues.base)


def as_event(body: bytes) -> bytes:
    """A whole JSON-RPC message as one server-sent event."""
    lines = body.splitlines() or [b""]
    return b"event: message\n" + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def progress_event(token: Json, step: int, message: str) -> bytes:
    """`notifications/progress`, without a total: nobody knows when a person decides."""
    params = {"progressToken": token, "progress": step, "message": message}
    return as_event(
        orjson.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    )
