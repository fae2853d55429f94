"""The MCP server behind every peer: one tool, any revision, no session, as little work as can be.

python -m benchmarks.peers.upstream --port 9000
"""

import argparse
from typing import Any

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from benchmarks.upstream import ANSWER, DISCOVER, LIST

_RESULTS: dict[str, Any] = {
    "initialize": {
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "bench", "version": "1"},
    },
    "server/discover": DISCOVER["result"],
    "tools/list": LIST["result"],
    "tools/call": ANSWER["result"],
    "ping": {},
}
_EMPTY = {"prompts/list": "prompts", "resources/list": "resources"}
_TEMPLATES = {"resources/templates/list": "resourceTemplates"}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    if scope["method"] != "POST":
        await _say(send, 405, b"")
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    message = orjson.loads(body)
    if "id" not in message:
        await _say(send, 202, b"")
    else:
        await _say(send, 200, orjson.dumps(_answer(message)))


def _answer(message: dict[str, object]) -> dict[str, object]:
    """Raises KeyError for a method that no peer should need."""
    method = str(message["method"])
    empty = {**_EMPTY, **_TEMPLATES}
    result: Any = {empty[method]: []} if method in empty else _RESULTS[method]
    if method == "initialize":
        asked = message["params"]
        assert isinstance(asked, dict)
        result = {**result, "protocolVersion": asked["protocolVersion"]}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


async def _say(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    uvicorn.run(application, port=given.port, loop="uvloop", lifespan="off", log_level="error")


if __name__ == "__main__":
    main()
