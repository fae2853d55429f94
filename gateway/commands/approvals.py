"""`gateway approvals`: what waits for a person, and their word on it."""

import json as json_text
from typing import Annotated

import typer

from gateway.commands.options import DEFAULT_URL, ApiUrl, AsJson, KeyFile, printable
from gateway.commands.over_api import line, tell, the_api

app = typer.Typer()
approvals = typer.Typer(help="Calls that wait for a person.", no_args_is_help=True)
app.add_typer(approvals, name="approvals")

ApprovalId = Annotated[str, typer.Argument(help="The approval's id, apr_….")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the trace.")]
_SHORT = ("id", "status", "risk", "tool_name", "agent_id", "expires_at")
_LONG = (
    *("id", "status", "risk", "tool_name", "server_id", "agent_id", "key_id", "policy_ids"),
    *("reason", "trace_id", "created_at", "expires_at", "decided_by", "decided_at"),
    *("decision_reason", "quorum", "approved_by"),
)


@approvals.command("list")
def list_approvals(
    status: Annotated[
        str, typer.Option(help="PENDING, APPROVED, CONSUMED, DENIED or EXPIRED; all: every one.")
    ] = "PENDING",
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """List approvals, those that wait unless told otherwise; with --json one a line."""
    with the_api(url, key_file) as api:
        wanted = None if status.lower() == "all" else status.upper()
        for row in api.all("/approvals", status=wanted):
            line(row, _SHORT, json)


@approvals.command()
def show(
    approval_id: ApprovalId,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Show an approval with the exact call that would pass."""
    with the_api(url, key_file) as api:
        row = api.send("GET", f"/approvals/{approval_id}")
        tell(row, _LONG, json)
        if not json:
            typer.echo("the call")
            for text in json_text.dumps(row["call"], indent=2, ensure_ascii=False).splitlines():
                typer.echo(printable(text))


@approvals.command()
def approve(
    approval_id: ApprovalId,
    reason: Reason,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Let this exact call pass, once."""
    with the_api(url, key_file) as api:
        tell(api.send("POST", f"/approvals/{approval_id}/approve", {"reason": reason}), _LONG, json)


@approvals.command()
def deny(
    approval_id: ApprovalId,
    reason: Reason,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Deny the call."""
    with the_api(url, key_file) as api:
        tell(api.send("POST", f"/approvals/{approval_id}/deny", {"reason": reason}), _LONG, json)
