"""Which questions besides the decision a bundle has answers to: what it lacks is never asked."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.frozen import frozen
from gateway.policy import modules

_HIDES = re.compile(rb"\bhidden\b")
_ROUTE = ("policies", "method")
_RESPONSES = ("policies", "response")
_EVERYBODY: "Route" = ("all", "")

Route = tuple[str, str]
"""`all` and nothing, or `project`, `server`, `agent` or `tool` and its name in Rego."""


@frozen
class Features:
    hides: bool = True
    """Some policy may have a `hidden` set; a comment with that word counts, and costs little."""
    methods: frozenset[str] | None = None
    """The methods besides `tools/call` that policies are about. None: it is not known, so all."""
    responses: frozenset[Route] | None = None
    """Whose responses policies look at. None: it is not known, so everybody's."""

    def decides(self, method: str) -> bool:
        """Whether the policy must be asked about messages of this method."""
        return self.methods is None or method in self.methods

    @property
    def decides_any(self) -> bool:
        return self.methods is None or bool(self.methods)

    def as_document(self) -> dict[str, Any]:
        """What the bundle itself says of them, as ``data.bundle``."""
        return {
            "hides": self.hides,
            "methods": sorted(self.methods or ()),
            "responses": [list(route) for route in sorted(self.responses or ())],
        }


UNKNOWN = Features()
"""Of a bundle that does not say: whatever can be asked is."""


def features_of(files: Mapping[str, bytes], data: Mapping[str, Any]) -> Features:
    """Read from the policies' text and from the composed data, which may stand in for Rego."""
    policies = [content for path, content in files.items() if _is_policy(path)]
    methods = {*_methods(policies), *data.get("policies", {}).get("method", {})}
    hides = any(_HIDES.search(text) for text in policies) or _has_key(data, "hidden")
    responses = {*_responses(policies), *_routes_in(data)}
    return Features(hides, frozenset(methods), frozenset(responses))


def features_in(document: Any) -> Features:
    """The inverse of `Features.as_document`; `UNKNOWN` when there is none."""
    match document:
        case {"hides": bool(hides), "methods": list(methods), "responses": list(responses)}:
            routes = frozenset((str(kind), str(name)) for kind, name in responses)
            return Features(hides, frozenset(map(str, methods)), routes)
        case _:
            return UNKNOWN


def _is_policy(path: str) -> bool:
    return path.endswith(".rego") and not path.startswith(("gateway/", "lib/"))


def _methods(policies: Iterable[bytes]) -> Iterable[str]:
    for text in policies:
        module = modules.read(text.decode("utf-8", "replace"))
        if module is not None and module.package[:2] == _ROUTE and len(module.package) > 2:
            yield module.package[2]


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_has_key(inner, key) for inner in value)


def _responses(policies: Iterable[bytes]) -> Iterable[Route]:
    """What cannot be told counts as looking at everything."""
    for text in policies:
        if b"response" in text:
            module = modules.read(text.decode(errors="replace"))
            package = _RESPONSES if module is None else module.package
            if package[:2] == _RESPONSES:
                yield _EVERYBODY if len(package) < 5 else (package[2], package[3])


def _routes_in(data: Mapping[str, Any]) -> Iterable[Route]:
    if "response" in data.get("policies", {}):
        yield _EVERYBODY
