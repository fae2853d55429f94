"""`gateway traces`: the trace as it grows."""

import time
from typing import Annotated, Any

import typer

from gateway.commands.options import DEFAULT_URL, ApiUrl, AsJson, KeyFile
from gateway.commands.over_api import line, the_api
from gateway.configuration.api import Api

app = typer.Typer()
traces = typer.Typer(help="The trace.", no_args_is_help=True)
app.add_typer(traces, name="traces")

_COLUMNS = ("ts", "kind", "decision", "reason_code", "risk", "tool", "agent_id", "trace_id")
_PAGE = 200


@traces.callback()
def _traces() -> None:
    pass


@traces.command()
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=_PAGE, help="How many.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new ones, until Ctrl-C.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--every", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
    url: ApiUrl = DEFAULT_URL,
    key_file: KeyFile = None,
    json: AsJson = False,
) -> None:
    """Print the newest records, the newest last; with --json one a line."""
    with the_api(url, key_file) as api:
        rows = api.send("GET", f"/traces?limit={max(lines, 1)}")["items"]
        seen = rows[0] if rows else None
        for row in reversed(rows[:lines]):
            line(row, _COLUMNS, json)
        while follow:
            time.sleep(seconds)
            for row in _since(api, seen):
                line(row, _COLUMNS, json)
                seen = row


def _since(api: Api, seen: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What was written after a record, the oldest first."""
    since = "" if seen is None else f"&from={seen['ts']}"
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = api.send("GET", f"/traces?limit={_PAGE}{since}{cursor}")
        for row in page["items"]:
            if seen is not None and row["id"] == seen["id"]:
                return found[::-1]
            found.append(row)
        if page["next_cursor"] is None:
            return found[::-1]
        cursor = f"&cursor={page['next_cursor']}"
