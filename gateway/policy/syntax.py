"""Reads Rego's syntax tree, as `opa parse --format json` prints it."""

from collections.abc import Iterator
from typing import Any, TypeAlias

Node: TypeAlias = Any
"""A piece of OPA's JSON: an object with ``type`` and ``value``, a list, or a plain value."""
Ref: TypeAlias = tuple[str, ...]
"""``input.arguments["x"][i]`` is ``("input", "arguments", "x", "[i]")``."""


def line_of(node: Node) -> int:
    return int(node["location"]["row"])


def is_term(node: Node, kind: str) -> bool:
    return isinstance(node, dict) and node.get("type") == kind


def ref_of(term: Node) -> Ref | None:
    """The path that a reference or a variable spells; None for every other term."""
    if is_term(term, "var"):
        return (str(term["value"]),)
    if not is_term(term, "ref"):
        return None
    head, *rest = term["value"]
    return (str(head["value"]), *(_segment(part) for part in rest))


def _segment(part: Node) -> str:
    return str(part["value"]) if part["type"] == "string" else f"[{part.get('value')}]"


def call_of(node: Node) -> tuple[str, list[Node]] | None:
    """Name and arguments of a call, which is a term of its own or the terms of an expression."""
    terms = node.get("value") if is_term(node, "call") else node
    if not isinstance(terms, list) or not terms:
        return None
    name = ref_of(terms[0])
    return None if name is None else (".".join(name), terms[1:])


def bodies_in(node: Node) -> Iterator[list[Node]]:
    """The bodies directly within a node: of comprehensions, `every`, `not`; not those in these."""
    if isinstance(node, list):
        for one in node:
            yield from bodies_in(one)
    elif isinstance(node, dict):
        if "body" in node:
            yield node["body"]
        for name, inner in node.items():
            if name not in ("body", "location"):
                yield from bodies_in(inner)


def shallow(node: Node) -> Iterator[Node]:
    """A node and every one below it, without what stands in bodies of their own."""
    yield node
    if isinstance(node, list):
        for one in node:
            yield from shallow(one)
    elif isinstance(node, dict):
        for name, inner in node.items():
            if name not in ("body", "location"):
                yield from shallow(inner)


def deep(node: Node) -> Iterator[Node]:
    """A node and every one below it."""
    yield node
    inner = node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
    for one in inner:
        yield from deep(one)


def refs_in(node: Node) -> Iterator[tuple[Ref, int]]:
    """Every reference below a node, with its line (0 where none is known)."""
    for one in deep(node):
        if is_term(one, "ref") and (ref := ref_of(one)) is not None:
            yield ref, line_of(one) if "location" in one else 0


def plain(node: Node) -> Node:
    """The same without locations, so that equal code is equal."""
    if isinstance(node, list):
        return [plain(one) for one in node]
    if isinstance(node, dict):
        return {name: plain(inner) for name, inner in node.items() if name != "location"}
    return node


def definitions(rule: Node) -> Iterator[Node]:
    """A rule and the links of its `else` chain."""
    link = rule
    while link is not None:
        yield link
        link = link.get("else")


def is_constant(term: Node) -> bool:
    return is_term(term, "string") or is_term(term, "number") or term["type"] in ("boolean", "null")


def literal_key(term: Node, key: str) -> Node | None:
    """The value under a key of an object literal; None when the literal does not have it."""
    for name, value in term["value"]:
        if is_term(name, "string") and name["value"] == key:
            return value
    return None
