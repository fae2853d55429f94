"""A server of the SDK's own, over stdio, for tests."""

import os
import sys
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

server = MCPServer("programs", log_level="ERROR")


class Name(BaseModel):
    name: str


@server.tool()
def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


@server.tool()
def pid() -> int:
    """Tell the process."""
    print("a line for the log, TOKEN", os.environ.get("TOKEN", ""), file=sys.stderr, flush=True)
    return os.getpid()


@server.tool()
def environment() -> list[str]:
    """Tell the names of the environment's variables."""
    return sorted(os.environ)


@server.tool()
def token() -> str:
    """Tell the secret."""
    return os.environ["TOKEN"]


@server.tool()
def exists(path: str) -> bool:
    """Tell whether there is such a path."""
    return Path(path).exists()


@server.tool()
def processes() -> int:
    """Count the processes in sight."""
    return sum(name.name.isdigit() for name in Path("/proc").iterdir())


@server.tool()
async def steps(context: Context[Any, Any], count: int) -> str:
    """Tell progress, then the result."""
    for step in range(1, count + 1):
        await context.report_progress(step, count, f"step {step}")
    return "done"


@server.tool()
async def greet(context: Context[Any, Any]) -> str:
    """Ask the person at the client for a name."""
    answer = await context.elicit("Who are you?", Name)
    return f"Hello {answer.data.name}" if answer.action == "accept" else "Hello"


if __name__ == "__main__":
    server.run("stdio")
