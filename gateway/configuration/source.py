"""YAML as plain values, each with its line. A subset in which nothing has two readings.

Refused beside bad syntax: a key twice, aliases, tags. Times stay text, only ``true`` and ``false``
are booleans, and numbers are whole and decimal: ``on``, ``0o17`` or ``1:30`` are text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from gateway.frozen import frozen

Plain: TypeAlias = "None | bool | int | str | list[Plain] | dict[str, Plain]"
Path: TypeAlias = "tuple[str | int, ...]"

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 20


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing to put right in a file; line 1 is the first."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        named = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}: {named}{self.message}"


class DocumentFault(Exception):
    """The files cannot be used; `faults` are all that was found."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        super().__init__("\n".join(map(str, self.faults)))


@frozen
class Source:
    """One file's values; `lines` has the line of each key and each item of a list."""

    file: str
    value: Plain
    lines: Mapping[Path, int]

    def line(self, path: Sequence[str | int]) -> int:
        """Of the value there, or of the nearest that is around it."""
        for length in range(len(path), 0, -1):
            found = self.lines.get(tuple(path[:length]))
            if found is not None:
                return found
        return 1


def spelled(path: Sequence[str | int]) -> str:
    """``rules[2].action``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def parse(file: str, raw: bytes) -> Source:
    """Raises `DocumentFault`."""
    try:
        text = raw.decode()
        node = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as fault:
        line = raw[: fault.start].count(b"\n") + 1
        raise DocumentFault([Fault(file, line, "", "is not UTF-8")]) from None
    except yaml.reader.ReaderError as fault:
        line = text[: fault.position].count("\n") + 1
        raise DocumentFault([Fault(file, line, "", "holds a control character")]) from None
    except _Unwanted as fault:
        raise DocumentFault([Fault(file, fault.line, "", str(fault))]) from None
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        line = 1 if mark is None else mark.line + 1
        message = f"is no YAML: {fault.problem or fault.context}"
        raise DocumentFault([Fault(file, line, "", message)]) from None
    walk = _Walk(file)
    value = None if node is None else walk.value(node, ())
    if walk.faults:
        raise DocumentFault(walk.faults)
    return Source(file, value, walk.lines)


def write(value: Mapping[str, object]) -> str:
    """YAML that `parse` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # In any other style PyYAML writes some line breaks of Unicode as they are and reads a space.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar(f"{_TAG}str", text, style=style)


_Dumper.add_representer(str, _text)


class _Unwanted(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise _Unwanted(line, f"write out what *{event.anchor} stands for; aliases are refused")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Unwanted(line, "is nested too deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


for _name, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"-?(0|[1-9][0-9]{0,17})", "-0123456789"),
    ("null", r"null|~|", ["n", "~", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), list(_first))


class _Walk:
    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.faults: list[Fault] = []

    def value(self, node: yaml.Node, path: Path) -> Plain:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return self._list(node, path)
        if isinstance(node, yaml.ScalarNode):
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool" if node.value in ("true", "false"):
                    return bool(node.value == "true")
                case "int" if re.fullmatch(r"-?[0-9]{1,18}", node.value):
                    return int(node.value)
                case "str":
                    return str(node.value)
        self._fault(node, path, f"has the tag {node.tag}; tags are not used here")
        return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Plain]:
        found: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
                self._fault(key_node, path, "has a key that is no text")
                continue
            inner = (*path, key)
            if key in found:
                self._fault(key_node, inner, f"is there already, on line {self.lines[inner]}")
                continue
            self.lines[inner] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, inner)
        return found

    def _list(self, node: yaml.SequenceNode, path: Path) -> list[Plain]:
        found: list[Plain] = []
        for number, item in enumerate(node.value):
            self.lines[(*path, number)] = item.start_mark.line + 1
            found.append(self.value(item, (*path, number)))
        return found

    def _fault(self, node: yaml.Node, path: Path, message: str) -> None:
        self.faults.append(Fault(self.file, node.start_mark.line + 1, spelled(path), message))
