"""What a Rego file says of itself, read without OPA: its package, and which data it refers to."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from gateway.frozen import frozen

Path = tuple[str, ...]
"""A path in ``data``: ``("policies", "all", "argument_size")``."""

_SEGMENTS = r"""(?:\.[A-Za-z_]\w*|\["(?:[^"\\\n]|\\.)*"\])*"""
_PACKAGE = re.compile(
    rf"(?:\s|#[^\n]*\n)*package[ \t]+([A-Za-z_]\w*{_SEGMENTS})[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)",
    re.ASCII,
)
_REFERENCE = re.compile(rf"\bdata({_SEGMENTS})", re.ASCII)
_SEGMENT = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\.?([A-Za-z_]\w*)', re.ASCII)


@frozen
class Module:
    """One Rego file."""

    package: Path
    references: frozenset[Path]
    """Every path after ``data``, as far as it is written out; a comment's count too."""

    def names(self, package: Path) -> bool:
        """Whether it refers to the package, to something in it, or to a folder that holds it."""
        return any(_related(reference, package) for reference in self.references)


@lru_cache(maxsize=8192)
def read(text: str) -> Module | None:
    """The module; None when the file does not begin with a package that can be read."""
    found = _PACKAGE.match(text)
    if found is None:
        return None
    references = {_path(reference) for reference in _REFERENCE.findall(text)}
    return Module(_path(found[1]), frozenset(references))


def importers(changed: Iterable[Path], modules: Mapping[str, Module]) -> set[str]:
    """Names of the modules in a changed package, or that refer to one, directly or not."""
    found: set[str] = set()
    fresh = set(changed)
    while fresh:
        reached = {
            name
            for name, module in modules.items()
            if name not in found
            and (module.package in fresh or any(module.names(package) for package in fresh))
        }
        found |= reached
        fresh = {modules[name].package for name in reached} - fresh
    return found


def needed(names: Iterable[str], modules: Mapping[str, Module]) -> set[str]:
    """The modules that must be loaded so that the named ones find all that they refer to."""
    found: set[str] = set()
    fresh = set(names)
    while fresh:
        found |= fresh
        packages = {modules[name].package for name in fresh}
        references = {path for name in fresh for path in modules[name].references}
        # Two paths are related when one begins with the other: sets tell it of thousands at once.
        within = {beginning for path in references for beginning in _beginnings(path)}
        fresh = {
            name
            for name, module in modules.items()
            if name not in found
            and (
                module.package in packages
                or module.package in within
                or not references.isdisjoint(_beginnings(module.package))
            )
        }
    return found


def _beginnings(path: Path) -> Iterator[Path]:
    return (path[:length] for length in range(len(path) + 1))


def _related(one: Path, other: Path) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _path(text: str) -> Path:
    return tuple(quoted or plain for quoted, plain in _SEGMENT.findall(text))
