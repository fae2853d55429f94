"""`gateway connect`: what an MCP client must be told to reach its servers through the gateway."""

import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
import typer

from gateway.commands.options import DEFAULT_URL, ApiUrl, KeyFile, api_key, told_plainly
from gateway.configuration.api import Api, ApiRefused, ApiUnknown

app = typer.Typer()

KEY_VARIABLE = "POLICY_GATEWAY_AGENT_KEY"
_ENDPOINT = re.compile(r"(?:(?P<name>[A-Za-z0-9_-]{1,64})=)?(?P<url>https?://\S+)")
_INPUT = "policy-gateway-agent-key"


class Client(StrEnum):
    CLAUDE_CODE = "claude-code"
    CURSOR = "cursor"
    WINDSURF = "windsurf"
    VSCODE = "vscode"


Endpoints = Annotated[
    list[str] | None,
    typer.Argument(
        help="A server's proxy_endpoint, or NAME=proxy_endpoint. Without any: every active server "
        "of the project, which needs an admin's or auditor's key."
    ),
]


@app.command()
def connect(
    client: Annotated[Client, typer.Argument(help="Which client.")],
    endpoints: Endpoints = None,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
) -> None:
    """Print a client's configuration, in JSON. No key is in it: the client reads the agent's key
    from a variable, or asks for it.
    """
    if endpoints:
        found = dict(_endpoint(text) for text in endpoints)
        if len(found) < len(endpoints):
            raise typer.BadParameter("two servers have one name; write NAME=URL")
    else:
        with told_plainly(ApiRefused, ApiUnknown), Api(url, api_key(key_file)) as api:
            servers = api.all("/mcp/servers")
        active = [one for one in servers if one["status"] == "ACTIVE" and one["is_proxied"]]
        found = {str(one["slug"]): str(one["proxy_endpoint"]) for one in active}
    file, how, document = _CONFIGURATIONS[client]
    typer.echo(orjson.dumps(document(found), option=orjson.OPT_INDENT_2).decode())
    typer.echo(f"Put this into {file}. {how}", err=True)


def _endpoint(text: str) -> tuple[str, str]:
    match = _ENDPOINT.fullmatch(text)
    path = urlsplit(match["url"]).path if match else ""
    folder, _, server_id = path.rpartition("/")
    if match is None or not folder.endswith("/api/v1/mcp/proxy") or not server_id:
        raise typer.BadParameter(f"{text} is no proxy_endpoint of a server")
    return match["name"] or server_id, match["url"]


def _claude_code(servers: Mapping[str, str]) -> dict[str, Any]:
    headers = _headers(f"${{{KEY_VARIABLE}}}")
    return {"mcpServers": {n: {"type": "http", "url": u} | headers for n, u in servers.items()}}


def _cursor(servers: Mapping[str, str]) -> dict[str, Any]:
    headers = _headers(f"${{env:{KEY_VARIABLE}}}")
    return {"mcpServers": {name: {"url": url} | headers for name, url in servers.items()}}


def _windsurf(servers: Mapping[str, str]) -> dict[str, Any]:
    headers = _headers(f"${{env:{KEY_VARIABLE}}}")
    return {"mcpServers": {name: {"serverUrl": url} | headers for name, url in servers.items()}}


def _vscode(servers: Mapping[str, str]) -> dict[str, Any]:
    headers = _headers(f"${{input:{_INPUT}}}")
    asked = {
        "type": "promptString",
        "id": _INPUT,
        "description": "The agent's key for the policy gateway",
        "password": True,
    }
    found = {name: {"type": "http", "url": url} | headers for name, url in servers.items()}
    return {"inputs": [asked], "servers": found}


def _headers(key: str) -> dict[str, dict[str, str]]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


_BY_VARIABLE = f"It reads the agent's key (gwp_…) from {KEY_VARIABLE}."
_CONFIGURATIONS: Mapping[Client, tuple[str, str, Callable[[Mapping[str, str]], dict[str, Any]]]] = {
    Client.CLAUDE_CODE: (".mcp.json in the project's folder", _BY_VARIABLE, _claude_code),
    Client.CURSOR: (".cursor/mcp.json or ~/.cursor/mcp.json", _BY_VARIABLE, _cursor),
    Client.WINDSURF: ("~/.codeium/windsurf/mcp_config.json", _BY_VARIABLE, _windsurf),
    Client.VSCODE: (".vscode/mcp.json", "It asks for the agent's key (gwp_…) once.", _vscode),
}
