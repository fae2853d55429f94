"""Schemas of tools' arguments for `opa check`, which then finds `input.arguments.limt`.

They lie in a folder of policy, as ``schemas/tools/<server slug>/<tool>.json``, so that a pull
request, an author's machine and the gateway check policies against the same ones. What servers
send is never handed on as it is: a `$ref` to another host would be fetched, and one fault would
fail the check of every policy. Only types, properties, items and alternatives are kept; what is
not understood may be anything.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPEN: Mapping[str, Any] = {"type": "object", "additionalProperties": True}
"""Any arguments at all."""
MAX_DEPTH = 20
MAX_NODES = 5_000
_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
_OPENING = ("allOf", "if", "dependentSchemas", "patternProperties", "$dynamicRef")
"""Keywords by which an object may have properties that are not listed beside them."""


def arguments_schema(input_schema: Any) -> Mapping[str, Any]:
    """A tool's `inputSchema` (JSON Schema) as far as `opa check` can use it safely."""
    reduced = _Reduction(input_schema).of(input_schema, 0)
    return reduced if reduced.get("type") == "object" else OPEN


def schema_folder(rego: Path, further: Mapping[str, bytes], aside: Path) -> Path:
    """What `opa check --schema` is given: the gateway's schemas, with ``further`` files below.

    `aside` is an empty folder that may be written to.
    """
    own = rego / "schemas"
    if not further:
        return own
    together = aside / "schemas"
    shutil.copytree(own, together)
    for name, content in further.items():
        path = together / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return together


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
