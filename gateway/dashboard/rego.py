"""Rego out of a bundle: its packages with their METADATA, and its source with some colour."""

import io
import re
import tarfile
from collections.abc import Iterator, Set

import yaml
from markupsafe import Markup

from gateway.dashboard.text import plain
from gateway.frozen import frozen

_TOKEN = re.compile(
    r'(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)'
    r"|(?P<word>\b(?:package|import|default|if|in|contains|every|some|not|with|as|else|true|false|null)\b)"
    r"|(?P<number>\b\d+(?:\.\d+)?\b)"
)
_PACKAGE = re.compile(r"^package\s+(\S+)", re.M)
_POLICY_ID = re.compile(r'"policy_id":\s*"([^"\\]+)"')
_METADATA = re.compile(r"^# METADATA\n((?:#[^\n]*\n)+)", re.M)


@frozen
class Package:
    file: str
    name: str
    title: str
    description: str
    rules: tuple[str, ...]
    """Titles of the rules that carry METADATA."""
    source: str
    policy_ids: tuple[str, ...]
    """What its findings name, as far as the source says it in so many letters."""


def packages(archive: bytes) -> list[Package]:
    """Every Rego file of a bundle, by path."""
    return sorted((_read(file, source) for file, source in _files(archive)), key=lambda p: p.file)


def highlighted(source: str, missed: Set[int] = frozenset()) -> Markup:
    """One element a line, numbered by the style sheet; lines that no test reached are marked."""
    return Markup("").join(
        Markup('<span class="pg-line{}" id="L{}">{}</span>').format(
            " pg-missed" if number in missed else "", number, _line(line)
        )
        for number, line in enumerate(source.splitlines(), 1)
    )


def _line(line: str) -> Markup:
    parts, last = Markup(""), 0
    for match in _TOKEN.finditer(line):
        parts += plain(line[last : match.start()])
        kind = match.lastgroup or ""
        parts += Markup('<span class="pg-{}">{}</span>').format(kind, plain(match.group()))
        last = match.end()
    return parts + plain(line[last:]) + "\n"


def _files(archive: bytes) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member) if member.name.endswith(".rego") else None
            if file is not None:
                yield member.name.lstrip("/"), file.read().decode(errors="replace")


def _read(file: str, source: str) -> Package:
    name = _PACKAGE.search(source)
    blocks = [_metadata(match.group(1)) for match in _METADATA.finditer(source)]
    first = blocks[0] if blocks else {}
    titles = tuple(str(block["title"]) for block in blocks if block.get("title"))
    return Package(
        file=file,
        name=name.group(1) if name else "",
        title=str(first.get("title", "")),
        description=str(first.get("description", "")).strip(),
        rules=titles,
        source=source,
        policy_ids=tuple(dict.fromkeys(_POLICY_ID.findall(source))),
    )


def _metadata(commented: str) -> dict[str, object]:
    text = "\n".join(line.removeprefix("#")[1:] for line in commented.splitlines())
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
