"""What the gateway is measured against: a bare route, a relay, a relay that asks the policy."""

import argparse
import os
import time

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.http1.client import Client, TcpAddress, UnixAddress, build_head

ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}


async def bare(request: Request) -> Response:
    await request.body()
    return JSONResponse(ANSWER)


class Relay:
    """Forwards over the same small client as the gateway; with a socket it asks OPA first."""

    def __init__(self, port: int, opa: str | None) -> None:
        self._upstream = Client(TcpAddress("127.0.0.1", port))
        self._opa = None if opa is None else Client(UnixAddress(opa))

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if self._opa is not None:
            await self._ask(self._opa, body)
        head = build_head(
            "POST",
            "/mcp",
            [(b"host", b"upstream"), (b"content-type", b"application/json")],
            len(body),
        )
        answer = await self._upstream.request(
            head, body, deadline=time.monotonic() + 5, max_body=1 << 22
        )
        return Response(answer.body, answer.status, media_type="application/json")

    async def _ask(self, opa: Client, body: bytes) -> None:
        message = orjson.loads(body)
        question = orjson.dumps({"input": {"arguments": message["params"]["arguments"]}})
        head = build_head(
            "POST",
            "/v1/data/gateway/decision",
            [(b"host", b"opa"), (b"content-type", b"application/json")],
            len(question),
        )
        answer = await opa.request(head, question, deadline=time.monotonic() + 5, max_body=1 << 20)
        orjson.loads(answer.body)["result"]["action"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--opa")
    parser.add_argument("kind", choices=["bare", "relay"])
    given = parser.parse_args()
    if given.kind == "bare":
        endpoint = bare
    else:
        relay = Relay(given.upstream, given.opa)

        async def endpoint(request: Request) -> Response:
            return await relay(request)

    app = Starlette(routes=[Route("/{path:path}", endpoint, methods=["POST"])])
    os.environ.pop("WEB_CONCURRENCY", None)
    uvicorn.run(app, port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
