"""Writes the arguments of scanned tools as schemas; see `gateway.policy.argument_schemas`."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, select

from gateway.frozen import frozen
from gateway.policy.argument_schemas import OPEN, arguments_schema
from gateway.store import tables

_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


@frozen
class Written:
    """What `write_tool_schemas` made."""

    files: tuple[Path, ...]
    skipped: Mapping[str, str]
    """Server slug and tool, and why there is no schema of its own."""


def write_tool_schemas(connection: Connection, folder: Path) -> Written:
    """Write ``<folder>/tools/<server slug>/<tool>.json`` for every tool that a server offers.

    What was below ``tools`` is removed first. `folder` is what `opa check --schema` is given; a
    policy names one as ``schemas: [{input.arguments: schema.tools.crm.query_records}]``, or as
    ``schema.tools.crm["query-records"]``. Accepted definitions come before those that wait.
    """
    shutil.rmtree(folder / "tools", ignore_errors=True)
    found: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, str] = {}
    for slug, name, definition in _definitions(connection):
        place = f"{slug}/{name}"
        if not _FILE.fullmatch(name):
            skipped[place] = "the name can be no file's"
            continue
        schema = arguments_schema(orjson.loads(definition).get("inputSchema"))
        if found.setdefault(place, schema) != schema:
            # Slugs are a project's own, and policies are everybody's.
            skipped[place] = "projects have different tools of this name"
            found[place] = OPEN
    files = []
    for place, schema in found.items():
        path = folder / "tools" / f"{place}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(schema, option=orjson.OPT_INDENT_2))
        files.append(path)
    return Written(tuple(files), skipped)


def _definitions(connection: Connection) -> Sequence[tuple[str, str, str]]:
    t, s = tables.tools.c, tables.servers.c
    query = (
        select(s.slug, t.name, t.accepted, t.current)
        .join(tables.servers, s.id == t.server_id)
        .where(t.pin != "GONE")
        .order_by(s.slug, t.name, t.id)
    )
    return [(row.slug, row.name, row.accepted or row.current) for row in connection.execute(query)]
