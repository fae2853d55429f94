"""What the demonstration tells when it is ready: to a script, and to a person."""

import json
from dataclasses import asdict

from gateway.frozen import frozen

SERVER_NAME = "crm"
ADMIN = "demo-administrator"
APPROVER = "demo-approver"

_CALLS = (
    ("allowed", "query_records", {"object_name": "Account", "limit": 1}),
    ("denied", "bulk_export", {"object_name": "Contact"}),
    ("waiting", "delete_record", {"record_id": "OPP-0001"}),
)


@frozen
class Demo:
    """All that one needs to call the demonstration; the line that ``--json`` prints."""

    base_url: str
    proxy_url: str
    server_id: str
    project_key: str
    admin_key: str
    approver_key: str
    auditor_key: str
    dashboard_url: str
    admin_user: str
    admin_password: str
    approver_user: str
    """Decides what the demonstration's agent asks."""
    approver_password: str
    data_dir: str


def as_json(demo: Demo) -> str:
    """One line, an object with the fields of `Demo`."""
    return json.dumps(asdict(demo))


def as_text(demo: Demo) -> str:
    """What to paste where; no line depends on the width of a terminal."""
    calls = "\n".join(
        f"call {tool} '{json.dumps(arguments)}'    # {outcome}"
        for outcome, tool, arguments in _CALLS
    )
    cursor = {
        "mcpServers": {
            SERVER_NAME: {
                "url": demo.proxy_url,
                "headers": {"Authorization": f"Bearer {demo.project_key}"},
            }
        }
    }
    return f"""
The gateway is ready.

  MCP endpoint   {demo.proxy_url}
  agent's key    {demo.project_key}
  approver's key {demo.approver_key}
  dashboard      {demo.dashboard_url}
    approves     {demo.approver_user}  {demo.approver_password}
    administers  {demo.admin_user}  {demo.admin_password}
  data and keys  {demo.data_dir}

Paste into a shell:

{shell_function(demo)}
{calls}
curl -s {demo.base_url}/api/v1/approvals -H 'Authorization: Bearer {demo.approver_key}'

Claude Code:

claude mcp add --transport http {SERVER_NAME} {demo.proxy_url} \
--header 'Authorization: Bearer {demo.project_key}'

Cursor (.cursor/mcp.json):

{json.dumps(cursor)}

Ctrl-C ends everything."""


def shell_function(demo: Demo) -> str:
    """A shell function `call TOOL ARGUMENTS` over `curl`."""
    return (
        f"call() {{ curl -s {demo.proxy_url} -H 'Authorization: Bearer {demo.project_key}' \\\n"
        "  -H 'Content-Type: application/json' "
        "-H 'Accept: application/json, text/event-stream' \\\n"
        '  -d \'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
        '"params":{"name":"\'"$1"\'","arguments":\'"$2"\'}}\'; echo; }'
    )
