"""nginx as the MCP server that costs nothing: one tool, one constant answer."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson

TOOL = {
    "name": "query_records",
    "description": "Read records of the CRM.",
    "inputSchema": {
        "type": "object",
        "properties": {"soql": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["soql"],
    },
}
_VERSION = "2026-07-28"
CALL = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": TOOL["name"],
            "arguments": {"soql": "SELECT Id, Name FROM Account WHERE Industry = 'x'", "limit": 50},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": _VERSION,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            },
        },
    }
)
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": _VERSION,
    "Mcp-Method": "tools/call",
    "Mcp-Name": str(TOOL["name"]),
}
ANSWER = {
    "jsonrpc": "2.0",
    "id": 1,
    "result": {
        "resultType": "complete",
        "content": [{"type": "text", "text": "[{'Id': '001', 'Name': 'Acme'}]"}],
    },
}
# A scan numbers its requests: it discovers first, then it lists.
DISCOVER = {
    "jsonrpc": "2.0",
    "id": 1,
    "result": {
        "resultType": "complete",
        "supportedVersions": [_VERSION],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "bench", "version": "1"},
    },
}
LIST = {
    "jsonrpc": "2.0",
    "id": 2,
    "result": {"resultType": "complete", "tools": [TOOL], "ttlMs": 0, "cacheScope": "private"},
}
_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} reuseport;
    default_type application/json;
    location / {{
      if ($http_mcp_method = "server/discover") {{ return 200 '{discovered}'; }}
      if ($http_mcp_method = "tools/list") {{ return 200 '{listing}'; }}
      return 200 '{answer}';
    }}
  }}
}}
"""


def _quoted(document: object) -> str:
    return orjson.dumps(document).decode().replace("'", "\\'")


@contextmanager
def nginx(port: int) -> Iterator[str]:
    """The URL of a running nginx."""
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(
            _CONFIG.format(
                folder=folder,
                port=port,
                discovered=_quoted(DISCOVER),
                listing=_quoted(LIST),
                answer=_quoted(ANSWER),
            )
        )
        process = subprocess.Popen(["nginx", "-c", str(config), "-p", folder])
        url = f"http://127.0.0.1:{port}/mcp"
        try:
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            httpx.post(url, content=CALL, headers=HEADERS, trust_env=False).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing answers at {url}")
