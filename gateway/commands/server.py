"""`gateway server`: register a server and read its tools."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands.options import DEFAULT_URL, ApiUrl, AsJson, KeyFile
from gateway.commands.over_api import id_of, tell, the_api
from gateway.configuration.api import Api

app = typer.Typer()
server = typer.Typer(help="MCP servers behind the gateway.", no_args_is_help=True)
app.add_typer(server, name="server")

_SERVER = ("id", "slug", "name", "server_url", "status", "proxy_endpoint")
_SCAN = ("tools", "added", "changed", "removed", "suspects", "uncovered")


@server.command()
def add(
    name: Annotated[str, typer.Argument(help="The server's name.")],
    server_url: Annotated[str, typer.Argument(help="Where it answers.")],
    slug: Annotated[
        str | None, typer.Option(help="Its name in Rego, for good; otherwise made from the name.")
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="streamable_http, which is the default, or another.")
    ] = None,
    bearer_file: Annotated[
        Path | None, typer.Option(help="File with the token that the server wants.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--allow-private-network", help="It lies within a private network.")
    ] = False,
    activate: Annotated[
        bool, typer.Option("--activate", help="Scan it, accept its tools and let calls pass.")
    ] = False,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Register a server. No call passes before it is activated, which accepts its tools."""
    body: dict[str, object] = {"name": name, "server_url": server_url}
    optional = {"slug": slug, "transport": transport}
    body |= {field: value for field, value in optional.items() if value is not None}
    body["allow_private_network"] = private
    if bearer_file is not None:
        body["auth"] = {"type": "bearer", "token": _token(bearer_file)}
    with the_api(url, key_file) as api:
        row = api.send("POST", "/mcp/servers", body)
        if activate:
            row = _activated(api, row)
        tell(row, _SERVER, json)


@server.command()
def scan(
    named: Annotated[str, typer.Argument(metavar="SERVER", help="Its id or slug.")],
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Read the server's tools and compare them with what was accepted."""
    with the_api(url, key_file) as api:
        server_id = id_of(api, "/mcp/servers", "srv_", named, "slug")
        typer.echo("Scanning…", err=True)
        tell(api.send("POST", f"/mcp/servers/{server_id}/scan"), _SCAN, json)


def _activated(api: Api, row: dict[str, Any]) -> dict[str, Any]:
    typer.echo(f"Registered {row['id']}; reading its tools…", err=True)
    activated: dict[str, Any] = api.send("PATCH", f"/mcp/servers/{row['id']}", {"status": "ACTIVE"})
    return activated


def _token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"cannot read {path}: {error}") from None
