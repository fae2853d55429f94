"""The fixture server on the Python SDK: it answers what its tool ran with."""

import socket
from typing import Any

import uvicorn
from mcp.server import MCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse

runs: list[dict[str, Any]] = []
server = MCPServer("differential", version="1")


def add(tool: str) -> None:
    @server.tool(name=tool, description="Record what it ran with.")
    def record(
        text: str = "",
        count: int = 0,
        ratio: float = 0.0,
        flag: bool = False,
        tags: list[str] = [],  # noqa: B006
        options: dict[str, Any] = {},  # noqa: B006
        note: str | None = None,
        any: Any = None,
    ) -> str:
        ran = {"text": text, "count": count, "ratio": ratio, "flag": flag}
        ran |= {"tags": tags, "options": options, "note": note, "any": any}
        runs.append({"tool": tool, "arguments": ran})
        return "ran"


async def take(_: Request) -> JSONResponse:
    taken = list(runs)
    runs.clear()
    return JSONResponse(taken)


if __name__ == "__main__":
    add("record")
    add("other")
    app = server.streamable_http_app()
    app.add_route("/ran", take)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(app, log_level="warning")
        uvicorn.Server(config).run(sockets=[listener])
