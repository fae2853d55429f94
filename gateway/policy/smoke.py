"""The questions that a bundle must answer before it may serve: about calls, messages, responses."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.policy.inputs import a_call, what_every_input_has

_MOST_ROUTES: Final = 100
_ACTIONS: Final = {"ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"}
_ASKED: Final = ("decision", "method", "response")

QUERY: Final = (
    "answers := {"
    + ", ".join(
        f'"{name}": [answer | some document in input.{name}; '
        f"answer := data.gateway.{name} with input as document]"
        for name in _ASKED
    )
    + "}"
)
"""Of OPA, with `questions` as input."""

Questions = Mapping[str, Sequence[object]]
"""By the document that is asked for, below ``data.gateway``."""


def questions(packages: Iterable[tuple[str, ...]]) -> Questions:
    """Nothing, null, and one whole input for each template and, up to a bound, each route."""
    routes = sorted({package[:4] for package in packages})
    asked = {
        "decision": list(_calls(routes)),
        "method": list(_messages(routes)),
        "response": list(_responses(routes)),
    }
    # What no policy is about is not asked about: most deployments decide nothing but calls.
    return {name: [{}, None, *whole] if whole else [] for name, whole in asked.items()}


def complaint(asked: Questions, answers: Mapping[str, Any]) -> str:
    """What is wrong with the answers, or nothing."""
    for name in _ASKED:
        found = answers[name]
        if len(found) != len(asked[name]):
            return f"the bundle loads, but data.gateway.{name} has no answer to every question"
        if not all(isinstance(a, dict) and _is_answer(name, a) for a in found):
            return f"the bundle loads, but data.gateway.{name} answers what nobody understands"
    return ""


def _is_answer(name: str, answer: Mapping[str, Any]) -> bool:
    if name == "response":
        return isinstance(answer.get("block"), bool)
    return answer.get("action") in _ACTIONS


def _calls(routes: Sequence[tuple[str, ...]]) -> Iterator[object]:
    yield a_call()
    for route in _few(route[:3] for route in routes):
        match route:
            case ("connectors", template, *_):
                yield a_call(template=template)
            case ("policies", "project" | "server" | "agent" | "tool" as kind, name):
                yield a_call(**{kind: name})


def _messages(routes: Sequence[tuple[str, ...]]) -> Iterator[object]:
    for route in _few(route[:3] for route in routes):
        match route:
            case ("policies", "method", name):
                for by in ("client", "server"):
                    yield _message(name, by)


def _responses(routes: Sequence[tuple[str, ...]]) -> Iterator[object]:
    for route in _few(routes):
        match route:
            case ("policies", "response", "all", _):
                yield _response()
            case ("policies", "response", "project" | "server" | "agent" | "tool" as kind, name):
                yield _response(**{kind: name})


def _few(routes: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return sorted(set(routes))[:_MOST_ROUTES]


def _message(method: str, by: str) -> dict[str, object]:
    """As ``rego/schemas/method/input.json`` has it, with empty parameters."""
    call = {"source": "mcp", "method": method, "phase": "method", "era": "modern", "session": None}
    return {
        **what_every_input_has("p", "s", "a", None),
        "target": {"method": method, "from": by, "params": {}},
        "call": call,
    }


def _response(
    *, project: str = "p", server: str = "s", agent: str = "a", tool: str = "t"
) -> dict[str, object]:
    """As ``rego/schemas/response/input.json`` has it: an empty result of a tool's call."""
    return {
        "version": 1,
        "project": {"id": "prj_0", "slug": project},
        "agent": {"id": "agt_0", "name": agent, "asserted": False},
        "server": {"id": "srv_0", "slug": server, "template": None},
        "tool": {"name": tool, "risk": "LOW"},
        "kind": "result",
        "method": "tools/call",
        "body": {"content": []},
        "context": {"time": "2026-01-01T00:00:00Z"},
    }
