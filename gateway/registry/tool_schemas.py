"""The arguments of scanned tools as schemas for `opa check`, which finds `input.arguments.limt`.

What servers send is never handed on: a `$ref` to another host would be fetched, and one fault would
fail the check of every policy. Only types, properties, items and alternatives are kept; what is
not understood may be anything.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, select

from gateway.store import tables

OPEN: Mapping[str, Any] = {"type": "object", "additionalProperties": True}
"""Any arguments at all."""
MAX_DEPTH = 20
MAX_NODES = 5_000
_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_OPENING = ("allOf", "if", "dependentSchemas", "patternProperties", "$dynamicRef")
"""Keywords by which an object may have properties that are not listed beside them."""


@dataclass(frozen=True, slots=True)
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


def arguments_schema(input_schema: Any) -> Mapping[str, Any]:
    """A tool's `inputSchema` (JSON Schema) as far as `opa check` can use it safely."""
    reduced = _Reduction(input_schema).of(input_schema, 0)
    return reduced if reduced.get("type") == "object" else OPEN


def _definitions(connection: Connection) -> Sequence[tuple[str, str, str]]:
    t, s = tables.tools.c, tables.servers.c
    query = (
        select(s.slug, t.name, t.accepted, t.current)
        .join(tables.servers, s.id == t.server_id)
        .where(t.pin != "GONE")
        .order_by(s.slug, t.name, t.id)
    )
    return [(row.slug, row.name, row.accepted or row.current) for row in connection.execute(query)]


@dataclass(slots=True)
class _Reduction:
    root: Any
    _nodes: int = field(default=0)

    def of(self, schema: Any, depth: int) -> dict[str, Any]:
        """The schema with what is safe; empty for anything."""
        self._nodes += 1
        if not isinstance(schema, dict) or depth > MAX_DEPTH or self._nodes > MAX_NODES:
            return {}
        if "$ref" in schema:
            return self.of(self._at(schema["$ref"]), depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._either(schema, keyword, depth)
        kind = schema.get("type", "object" if "properties" in schema else None)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return {"type": "array", "items": self.of(schema.get("items"), depth + 1)}
        return _plain(kind)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or any(keyword in schema for keyword in _OPENING):
            return dict(OPEN)
        reduced: dict[str, Any] = {
            "type": "object",
            "properties": {name: self.of(value, depth + 1) for name, value in properties.items()},
        }
        # Left out, it would let every name pass in JSON Schema; whoever means that says so.
        if schema.get("additionalProperties", False) is not False:
            reduced["additionalProperties"] = True
        return reduced

    def _either(self, schema: dict[str, Any], keyword: str, depth: int) -> dict[str, Any]:
        options = schema[keyword]
        if "properties" in schema or not isinstance(options, list) or not options:
            return {}
        reduced = [self.of(option, depth + 1) for option in options]
        return {} if {} in reduced else {"anyOf": reduced}

    def _at(self, reference: Any) -> Any:
        """What a reference within the document leads to; nothing for any other."""
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return None
        node = self.root
        for part in reference.removeprefix("#/").split("/"):
            if not isinstance(node, dict):
                return None
            node = node.get(part.replace("~1", "/").replace("~0", "~"))
        return node


def _plain(kind: Any) -> dict[str, Any]:
    if isinstance(kind, str) and kind in _TYPES:
        return {"type": kind}
    several = isinstance(kind, list) and kind and all(isinstance(one, str) for one in kind)
    if several and set(kind) <= _TYPES - {"object", "array"}:
        return {"type": kind}
    return {}
