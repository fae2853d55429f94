"""A JSON Schema document of unknown origin: what its references and patterns lead to."""

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

from gateway.values import Json

MAX_SCHEMAS: Final = 30_000
MAX_KEY_LENGTH: Final = 256
_QUANTIFIER: Final = re.compile(r"(?<!\\)[*+?{]")
_IN_PLACE: Final = ("allOf", "anyOf", "oneOf")


class UnreadableSchema(Exception):
    """A schema that cannot be compiled; the text continues "the tool's inputSchema …"."""


class Document:
    """One schema document. References are looked up in it and nowhere else."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._schemas = 0
        self._anchors: dict[str, Json] = {}
        self._resources: dict[str, Json] = {}
        for node in _objects(root):
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(node.get(keyword), str):
                    self._anchors[node[keyword]] = node
            if isinstance(node.get("$id"), str) and node is not root:
                self._resources[node["$id"].rstrip("#")] = node

    def count(self) -> None:
        """Count one compiled schema; raise `UnreadableSchema` when there are too many."""
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise UnreadableSchema(f"holds more than {MAX_SCHEMAS} schemas")

    def holds(self, reference: str) -> bool:
        """Whether ``reference`` leads into this document, as far as its text says."""
        resource = reference.partition("#")[0]
        return not resource or resource in self._resources or resource == self._own_id()

    def resolve(self, reference: str) -> Json | None:
        """Return the schema that a reference into this document names, None if it is missing."""
        resource, _, fragment = reference.partition("#")
        start = self._resources.get(resource, self._root)
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        return _at_pointer(start, fragment)

    def property_names(self, schema: Json) -> frozenset[str]:
        """Return the names of all properties that ``schema`` knows of the value it looks at."""
        names: set[str] = set()
        seen: set[int] = set()
        waiting = [schema]
        while waiting:
            node = waiting.pop()
            if not isinstance(node, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            self.count()
            if isinstance(node.get("properties"), dict):
                names.update(node["properties"])
            waiting.extend(self._joining(node))
        return frozenset(names)

    def _joining(self, node: dict[str, Json]) -> Iterator[Json]:
        for keyword in _IN_PLACE:
            if isinstance(node.get(keyword), list):
                yield from node[keyword]
        for keyword in ("then", "else"):
            yield node.get(keyword)
        if isinstance(node.get("dependentSchemas"), dict):
            yield from node["dependentSchemas"].values()
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = node.get(keyword)
            if isinstance(reference, str) and self.holds(reference):
                yield self.resolve(reference)

    def _own_id(self) -> str | None:
        own = self._root.get("$id") if isinstance(self._root, dict) else None
        return own.rstrip("#") if isinstance(own, str) else None


def _unsure(_key: str) -> bool | None:
    return None


def safe_pattern(pattern: str) -> Callable[[str], bool | None]:
    """Return a matcher for keys; it answers None where matching could take too long.

    The pattern is the server's and the key the caller's, so only patterns without groups and
    with at most two quantifiers are run, on short keys. ECMA-262 classes are ASCII.
    """
    if "(" in pattern or len(_QUANTIFIER.findall(pattern)) > 2:
        return _unsure
    try:
        compiled = re.compile(pattern, re.ASCII)
    except (re.error, OverflowError):
        return _unsure
    return lambda key: None if len(key) > MAX_KEY_LENGTH else compiled.search(key) is not None


def _objects(root: Json) -> Iterator[dict[str, Json]]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _at_pointer(start: Json, pointer: str) -> Json | None:
    """Follow a JSON pointer (RFC 6901); None when it leads nowhere."""
    node = start
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isascii() and name.isdigit() and len(name) < 6:
            if int(name) >= len(node):
                return None
            node = node[int(name)]
        else:
            return None
    return node
