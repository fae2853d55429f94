"""What is wrong with policies although OPA accepts them: our own rules, over the syntax tree."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gateway.frozen import frozen
from gateway.mcp.envelope import METHODS
from gateway.policy.syntax import (
    Node,
    Ref,
    call_of,
    deep,
    definitions,
    is_constant,
    is_term,
    line_of,
    literal_key,
    plain,
    ref_of,
    refs_in,
)
from gateway.policy.unchecked import may_vanish, reads_arguments, unchecked_uses
from gateway.values import Era

ACTIONS = ("ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY")
_ASKED = {"findings", "hidden"}
_DEPTHS = {"all": 3, "project": 4, "server": 4, "agent": 4, "tool": 4, "method": 4}
_RESPONSE_DEPTHS = {"all": 4, "project": 5, "server": 5, "agent": 5, "tool": 5}
_OF_SERVERS = {"sampling/createMessage", "elicitation/create", "roots/list"}
_DECIDED_METHODS = {*METHODS[Era.LEGACY], *METHODS[Era.MODERN], *_OF_SERVERS, "response"} - {
    "tools/call"
}
_TEMPLATE_DEPTH = 3
_RESPONSES = ("policies", "response")
_METHODS = ("policies", "method")
_OF_A_PACKAGE = {"package", "subpackages"}


@dataclass(frozen=True, slots=True, order=True)
class Flaw:
    """One thing to put right; `message` says what, and what to do."""

    file: str
    line: int
    rule: str
    message: str
    level: Literal["error", "warning"] = "error"


@frozen
class Module:
    """One file of policy, parsed."""

    file: str
    tree: Node

    @property
    def package(self) -> Ref:
        """Without ``data``."""
        return tuple(str(part["value"]) for part in self.tree["package"]["path"][1:])

    @property
    def is_test(self) -> bool:
        return self.file.endswith("_test.rego")

    @property
    def rules(self) -> list[Node]:
        return list(self.tree.get("rules") or ())

    def flaw(self, at: Node, rule: str, message: str) -> Flaw:
        return Flaw(self.file, line_of(at), rule, message)


def flaws_of(modules: Iterable[Module]) -> list[Flaw]:
    """Every flaw, by file and line; tests may do what they like."""
    policies = [module for module in modules if not module.is_test]
    found: list[Flaw] = []
    for module in policies:
        found += [*_metadata(module), *_with(module), *_placed(module, policies)]
        for rule in module.rules:
            found += [*_finding(module, rule), *_types(module, rule)]
        found += _hidden(module)
    return sorted({*found, *_conflicts(policies)})


def _name(rule: Node) -> str:
    return str(rule["head"]["ref"][0]["value"])


def _metadata(module: Module) -> Iterator[Flaw]:
    package = module.tree["package"]
    annotations = [a for a in module.tree.get("annotations") or () if a["scope"] in _OF_A_PACKAGE]
    if not any(a.get("title") for a in annotations):
        yield module.flaw(
            package, "metadata-package", "put `# METADATA` with a `title:` above the package"
        )
    elif not any(a.get("schemas") for a in annotations) and _reads_input(module):
        yield module.flaw(
            package,
            "metadata-schema",
            "add `schemas: [{input: schema.input}]` to the package's METADATA, so that a misspelt "
            "field of the input is found",
        )
    described: dict[str, bool] = defaultdict(bool)
    first: dict[str, Node] = {}
    for rule in module.rules:
        first.setdefault(_name(rule), rule)
        described[_name(rule)] |= any(a.get("title") for a in rule.get("annotations") or ())
    for name, rule in first.items():
        if not name.startswith("_") and not described[name]:
            message = f"put `# METADATA` with a `title:` above {name}, or begin its name with _"
            yield module.flaw(rule, "metadata-rule", message)


def _reads_input(module: Module) -> bool:
    return any(ref[0] == "input" for ref, _ in refs_in(module.rules))


def _with(module: Module) -> Iterator[Flaw]:
    for node in deep(module.rules):
        if isinstance(node, dict) and isinstance(node.get("with"), list):
            yield module.flaw(
                node["with"][0],
                "with-outside-test",
                "`with` lets a policy decide another call than the one at hand; keep it in "
                "*_test.rego",
            )


def _placed(module: Module, all_modules: list[Module]) -> Iterator[Flaw]:
    """A package that the router never asks, and that nobody else reads either."""
    path = module.package
    if path[:1] not in (("policies",), ("connectors",)):
        return
    depth = _depth(path)
    asked = _ASKED & {_name(rule) for rule in module.rules}
    if len(path) == depth and asked:
        return
    spelt = ".".join(path)
    if asked:
        message = f"{spelt} is no route: it is never asked. Routes are policies.all.<policy> and "
        message += "policies.{project, server, agent, tool, method}.<name>.<policy>, exactly "
        message += "that deep, and but for method the same below policies.response"
    elif any(_is_read(path, other) for other in all_modules if other.package != path):
        return
    else:
        message = f"{spelt} has no `findings`, and no other policy reads it: it is never asked"
    yield module.flaw(module.tree["package"], "never-asked", message)


def _depth(path: Ref) -> int:
    if path[:2] == _RESPONSES:
        return _RESPONSE_DEPTHS.get(path[2], 0) if len(path) > 2 else 0
    if path[:2] == _METHODS and len(path) > 2 and path[2] not in _DECIDED_METHODS:
        return 0
    if path[0] == "policies" and len(path) > 1:
        return _DEPTHS.get(path[1], 0)
    return _TEMPLATE_DEPTH if path[0] == "connectors" else 0


def _is_read(path: Ref, by: Module) -> bool:
    wanted = ("data", *path)
    read = [ref_of(one["path"]) or () for one in by.tree.get("imports") or ()]
    read += [ref for ref, _ in refs_in(by.rules)]
    return any(ref[: len(wanted)] == wanted for ref in read)


def _conflicts(modules: list[Module]) -> Iterator[Flaw]:
    """Two values for one complete rule stop every call that reaches the policy."""
    by_name: dict[tuple[Ref, str], list[tuple[Module, Node]]] = defaultdict(list)
    for module in modules:
        for rule in module.rules:
            head = rule["head"]
            complete = "key" not in head and "args" not in head and len(head["ref"]) == 1
            if complete and not rule.get("default"):
                by_name[module.package, _name(rule)].append((module, rule))
    for (_, name), defined in by_name.items():
        if len(defined) > 1 and not _always_equal(rule for _, rule in defined):
            for module, rule in defined[1:]:
                message = f"{name} has several definitions: two values at once are an error that "
                message += "refuses the call. Use `else`, or a set (`contains`)"
                yield module.flaw(rule, "several-definitions", message)


def _always_equal(rules: Iterable[Node]) -> bool:
    """`_ok if a` and `_ok if b` say "or": whichever holds, the value is the same."""
    values = []
    for rule in rules:
        for link in definitions(rule):
            value = link["head"].get("value", {"type": "boolean", "value": True})
            if not is_constant(value):
                return False
            values.append(plain(value))
    return all(value == values[0] for value in values)


def _finding(module: Module, rule: Node) -> Iterator[Flaw]:
    if _name(rule) != "findings":
        return
    key = rule["head"].get("key")
    if key is None:
        message = "findings must be a set: write `findings contains {…} if {…}`"
        yield module.flaw(rule, "findings-no-set", message)
        return
    judge = _of_response if module.package[:2] == _RESPONSES else _literal
    for literal in _literals(key, rule):
        yield from judge(module, literal, key)
    for what, line in may_vanish(rule):
        message = f"without {what} this finding is none at all: ask for it in the body, or write "
        message += 'object.get(input.arguments, "…", "?")'
        yield Flaw(module.file, line, "finding-may-vanish", message)


def _literals(key: Node, rule: Node) -> Iterator[Node]:
    """The objects that a finding is written as; one that is computed cannot be judged here."""
    if is_term(key, "object"):
        yield key
    for expression in rule.get("body", ()):
        call = call_of(expression["terms"])
        if call and call[0] in ("assign", "eq") and ref_of(call[1][0]) == ref_of(key) is not None:
            yield from (one for one in call[1][1:] if is_term(one, "object"))


def _literal(module: Module, literal: Node, at: Node) -> Iterator[Flaw]:
    needed = {
        "action": f"one of {', '.join(ACTIONS)}: without it the call is denied",
        "policy_id": "the name by which overrides and records know the policy",
        "reason": "what people are told",
    }
    for name, meaning in needed.items():
        if literal_key(literal, name) is None:
            message = f"the finding has no {name}, {meaning}"
            yield module.flaw(at, f"finding-no-{name.replace('_', '-')}", message)
    action = literal_key(literal, "action")
    if action is None or not is_term(action, "string"):
        return
    if action["value"] not in ACTIONS:
        message = f"{action['value']} is none of {', '.join(ACTIONS)}: the call is denied"
        yield module.flaw(action, "finding-unknown-action", message)
    elif action["value"] == "REQUIRE_APPROVAL" and module.package[:2] == _METHODS:
        message = "only a tool's call can wait for an approval, so this message would be refused "
        message += "each time: say DENY, or LOG_ONLY"
        yield module.flaw(action, "method-asks-approval", message)
    elif action["value"] == "ALLOW" and module.package[:1] == ("policies",):
        message = "an ALLOW of the organisation has no effect: its policies only tighten"
        yield Flaw(module.file, line_of(action), "allow-no-effect", message, "warning")


def _of_response(module: Module, literal: Node, at: Node) -> Iterator[Flaw]:
    needed = {
        "policy_id": "the name by which records know the policy",
        "obligations": 'what is asked for, such as [{"type": "block"}]',
    }
    for name, meaning in needed.items():
        if literal_key(literal, name) is None:
            message = f"the finding has no {name}, {meaning}: without it the response is withheld"
            yield module.flaw(at, f"finding-no-{name.replace('_', '-')}", message)


def _types(module: Module, rule: Node) -> Iterator[Flaw]:
    for use in unchecked_uses(rule):
        number = use.guard == "is_number"
        kind = "unchecked-number" if number else "unchecked-string"
        message = f"{use.what} may be missing or of another type where {use.use} reads it: ask "
        message += f"{use.guard}({use.what}) first in this body, and find something in another "
        message += f"rule for `not {use.guard}({use.what})`"
        yield Flaw(module.file, use.line, kind, message)


def _hidden(module: Module) -> Iterator[Flaw]:
    """Lists of tools are filtered before there are arguments, so `hidden` may not read them."""
    by_name: dict[str, list[Node]] = defaultdict(list)
    for rule in module.rules:
        by_name[_name(rule)].append(rule)
    seen, waiting = set(), ["hidden"] if "hidden" in by_name else []
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for rule in by_name[name]:
            for ref, line in refs_in(rule):
                if reads_arguments(ref):
                    message = "`hidden` is asked before there are arguments; decide by the tool's "
                    message += "name, or use `findings`"
                    yield Flaw(module.file, line, "hidden-reads-arguments", message)
            used = {str(n["value"]) for n in deep(rule) if is_term(n, "var")}
            waiting += [other for other in used & set(by_name) if other not in seen]
