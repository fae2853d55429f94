"""A small CRM as an MCP server: what the demonstration's agents call.

``python -m gateway.demo.crm --port 0`` serves on loopback, prints its port on one line, and ends
when its standard input is closed: so it never outlives whoever started it, however that one ends.
"""

import argparse
import asyncio
import os
import socket
import sys
import threading
from datetime import UTC, datetime
from typing import Annotated, Literal

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from gateway.demo import records
from gateway.demo.records import Email, Record

ObjectName = Annotated[
    Literal["Account", "Contact", "Opportunity"], Field(description="The kind of record.")
]
RecordId = Annotated[str, Field(description="A record's id, such as ACC-0001.", max_length=32)]
Fields = Annotated[dict[str, str], Field(description="Field names and their new values.")]

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_CHANGES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
_SENDS = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=True)

server = MCPServer(
    "crm",
    title="Demo CRM",
    version="1.0.0",
    instructions="A small CRM with accounts, contacts and opportunities. Nothing in it is real.",
    log_level="WARNING",
)
_crm = records.sample()


class Found(BaseModel):
    total: int
    records: list[Record]


class Export(BaseModel):
    total: int
    csv: str


class Report(BaseModel):
    title: str
    made_at: str
    lines: list[str]


@server.tool(title="Query records", annotations=_READS)
def query_records(
    object_name: ObjectName,
    contains: Annotated[str, Field(description="Text to look for in any field.")] = "",
    limit: Annotated[int, Field(description="At most this many records.", ge=1, le=50)] = 10,
) -> Found:
    """Find records of one kind in the CRM, optionally those that contain a text."""
    matching = _crm.find(object_name, contains)
    return Found(total=len(matching), records=matching[:limit])


@server.tool(title="Create record", annotations=_ADDS)
def create_record(object_name: ObjectName, fields: Fields) -> Record:
    """Create a record in the CRM and return it with its new id."""
    return _crm.create(object_name, fields)


@server.tool(title="Update record", annotations=_CHANGES)
def update_record(record_id: RecordId, fields: Fields) -> Record:
    """Change fields of one record; fields that are not named keep their values."""
    return _crm.update(record_id, fields)


@server.tool(title="Delete record", annotations=_CHANGES)
def delete_record(record_id: RecordId) -> Record:
    """Delete one record from the CRM for good and return what it was."""
    return _crm.delete(record_id)


@server.tool(title="Send email", annotations=_SENDS)
def send_email(
    to: Annotated[list[str], Field(description="Addresses of the recipients.", min_length=1)],
    subject: Annotated[str, Field(max_length=200)],
    body: Annotated[str, Field(description="Plain text.")],
) -> Email:
    """Send an e-mail from the sales team's address to one or more recipients."""
    return _crm.send(to, subject, body)


@server.tool(title="Bulk export", annotations=_READS)
def bulk_export(object_name: ObjectName) -> Export:
    """Export every record of one kind, with all fields, as CSV."""
    matching = _crm.find(object_name, "")
    return Export(total=len(matching), csv=records.as_csv(matching))


@server.tool(title="Slow report", annotations=_READS)
async def slow_report(
    context: Context,
    steps: Annotated[int, Field(description="Steps of the report.", ge=1, le=50)] = 5,
    seconds_per_step: Annotated[float, Field(ge=0, le=5)] = 0.3,
) -> Report:
    """Compile the quarterly pipeline report, telling the progress as it goes."""
    lines = []
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds_per_step)
        await context.report_progress(step, steps, f"Section {step} of {steps}")
        lines.append(f"Section {step}: {len(_crm.find('Opportunity', ''))} open opportunities")
    return Report(title="Pipeline", made_at=datetime.now(UTC).isoformat(), lines=lines)


@server.tool(title="Stream records", annotations=_READS)
async def stream_records(
    context: Context,
    object_name: ObjectName,
    seconds_between: Annotated[float, Field(ge=0, le=5)] = 0.1,
) -> Found:
    """Read all records of one kind, sending each as a message as soon as it is read."""
    matching = _crm.find(object_name, "")
    for number, record in enumerate(matching, 1):
        await context.report_progress(number, len(matching), record.model_dump_json())
        await asyncio.sleep(seconds_between)
    return Found(total=len(matching), records=matching)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _listen(port: int) -> socket.socket:
    """Listen on `port`, or on a free one when another program has taken it."""
    for candidate in (port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
        except OSError:
            listener.close()
            continue
        listener.listen(128)
        return listener
    raise SystemExit("no free port on 127.0.0.1")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.crm", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    listener = _listen(parser.parse_args().port)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Connections wait in the listener's queue until the server takes them: no call is lost.
    print(listener.getsockname()[1], flush=True)
    # Without sessions a single `curl` can call a tool.
    app = server.streamable_http_app(stateless_http=True)
    config = uvicorn.Config(app, log_level="warning", lifespan="on")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
