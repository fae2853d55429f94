"""Finds where a rule trusts the type, or the presence, of what a client wrote."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.frozen import frozen
from gateway.policy.syntax import (
    Node,
    Ref,
    bodies_in,
    call_of,
    definitions,
    is_term,
    line_of,
    ref_of,
    shallow,
)

_UNCHECKED = (
    ("input", "arguments"),
    ("input", "call", "meta"),
    ("input", "call", "input_responses"),
    ("input", "call", "task"),
)
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_ARITHMETIC = {"plus", "minus", "mul", "div", "rem"}
_GUARDS = {"is_number": "number", "is_string": "string"}
_TEXT_TESTS = {
    "contains": (0,),
    "endswith": (0,),
    "glob.match": (2,),
    "regex.match": (1,),
    "startswith": (0,),
    "strings.any_prefix_match": (0,),
    "strings.any_suffix_match": (0,),
}


@frozen
class Unchecked:
    """A use of a value whose type nobody asked for."""

    line: int
    what: str
    """As it is spelt: ``input.arguments.limit``, or the variable that holds it."""
    use: str
    """The comparison's sign or the builtin's name."""
    guard: str
    """``is_number`` or ``is_string``."""


@dataclass
class _Scope:
    """What is known in a body: where variables come from, and what was asked for its type."""

    origins: dict[str, Ref] = field(default_factory=dict)
    checked: set[tuple[str, Ref]] = field(default_factory=set)

    def inner(self) -> "_Scope":
        return _Scope(dict(self.origins), set(self.checked))

    def origin(self, term: Node) -> Ref | None:
        """The client's value that a term is, or None when it is something else."""
        ref = ref_of(term)
        if ref is None:
            return self._got(term)
        if ref[0] in self.origins:
            return self.origins[ref[0]] + ref[1:]
        return ref if _is_client_s(ref) else None

    def _got(self, term: Node) -> Ref | None:
        """`object.get(input.arguments, key, default)` is as unchecked as what it reads."""
        call = call_of(term)
        if call is None or call[0] != "object.get" or len(call[1]) < 2:
            return None
        source = self.origin(call[1][0])
        return None if source is None else (*source, f"[{call[1][1].get('value')}]")


def unchecked_uses(rule: Node) -> Iterator[Unchecked]:
    """Comparisons and tests of text in a rule whose operand may be of another type, or missing."""
    for link in definitions(rule):
        scope = _Scope()
        yield from _in_body(link.get("body", []), scope)
        yield from _in_expression(link["head"], scope, denied=False)


def may_vanish(link: Node) -> Iterator[tuple[str, int]]:
    """What a finding's own text reads and its body does not: without it the finding is none."""
    proved = {
        ref
        for expression in link.get("body", [])
        if "with" not in expression
        for one in shallow(expression)
        if (ref := ref_of(one)) is not None
    }
    for one in shallow(link["head"].get("key")):
        ref = ref_of(one) if is_term(one, "ref") else None
        if ref is None or not _is_client_s(ref) or ref in _UNCHECKED:
            continue
        if not any(known[: len(ref)] == ref for known in proved):
            yield spelt(ref), line_of(one)


def reads_arguments(ref: Ref) -> bool:
    return ref[:2] == ("input", "arguments")


def spelt(ref: Ref) -> str:
    """A reference as its author would write it."""
    return ref[0] + "".join(part if part.startswith("[") else f".{part}" for part in ref[1:])


def _is_client_s(ref: Ref) -> bool:
    return any(ref[: len(root)] == root for root in _UNCHECKED)


def _in_body(body: list[Node], scope: _Scope) -> Iterator[Unchecked]:
    for expression in body:
        _learn(expression, scope)
    for expression in body:
        terms = expression["terms"]
        yield from _in_expression(terms, scope, denied=is_term(terms, "not"))


def _learn(expression: Node, scope: _Scope) -> None:
    """Take note of what an expression binds, and of whose type it asks for."""
    terms = expression["terms"]
    if isinstance(terms, dict):
        for declared in terms.get("symbols", ()):
            if (call := call_of(declared)) and call[0].startswith("internal.member"):
                _bind(scope, call[1][-2], call[1][-1], "[]")
        return
    call = call_of(terms)
    if call is None:
        return
    name, arguments = call
    if name in ("assign", "eq") and len(arguments) == 2:
        _bind(scope, arguments[0], arguments[1])
    elif name in _GUARDS and (origin := scope.origin(arguments[0])):
        scope.checked.add((_GUARDS[name], origin))


def _bind(scope: _Scope, variable: Node, value: Node, step: str = "") -> None:
    origin = scope.origin(value)
    if origin is not None and is_term(variable, "var"):
        scope.origins[variable["value"]] = (*origin, step) if step else origin


def _in_expression(node: Node, scope: _Scope, *, denied: bool) -> Iterator[Unchecked]:
    for one in shallow(node):
        if isinstance(one, list | dict) and (call := call_of(one)):
            yield from _in_call(*call, one, scope, denied=denied)
    if is_term(node, "not"):
        yield from _in_negation(node["body"], scope)
        return
    for body in bodies_in(node):
        within = scope.inner()
        if isinstance(node, dict) and "domain" in node:
            _bind(within, node["value"], node["domain"], "[]")
        yield from _in_body(body, within)


def _in_negation(body: list[Node], scope: _Scope) -> Iterator[Unchecked]:
    """`not startswith(x, …)` holds for a missing x, so only comparisons deceive there."""
    for use in _in_body(body, scope.inner()):
        if use.use in _COMPARISONS.values():
            yield use


def _in_call(
    name: str, arguments: list[Node], at: Node, scope: _Scope, *, denied: bool
) -> Iterator[Unchecked]:
    if name in _COMPARISONS:
        kind = "string" if any(is_term(a, "string") for a in arguments) else "number"
        for argument in arguments:
            yield from _asked(argument, kind, _COMPARISONS[name], scope)
    elif name in _TEXT_TESTS and not denied:
        for place in _TEXT_TESTS[name]:
            if place < len(arguments):
                yield from _asked(arguments[place], "string", name, scope)


def _asked(term: Node, kind: str, use: str, scope: _Scope) -> Iterator[Unchecked]:
    call = call_of(term) if is_term(term, "call") else None
    if call is not None and call[0] in _ARITHMETIC:
        for operand in call[1]:
            yield from _asked(operand, kind, use, scope)
        return
    origin = scope.origin(term)
    if origin is not None and (kind, origin) not in scope.checked:
        what = spelt(ref_of(term) or origin)
        yield Unchecked(line_of(term), what, use, f"is_{kind}")
