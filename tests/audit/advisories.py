"""Advisories in OSV's format, and PyPI's answers about releases, as files.

OSV: https://ossf.github.io/osv-schema/, 1.7. Of ranges only those of the type ECOSYSTEM speak of
versions. PyPI: the JSON of one release, with its `vulnerabilities`.
"""

import json
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


class Unreadable(Exception):
    """A file that does not say what it should; nothing can be told from it."""


@dataclass(frozen=True)
class Advisory:
    id: str
    summary: str
    versions: Sequence[str]
    ranges: Sequence[Sequence[Mapping[str, str]]]
    """Each a list of events, in the order of versions."""

    @property
    def said(self) -> str:
        return f" ({self.summary})" if self.summary else ""

    def affects(self, version: Version) -> bool:
        """Where a version of the advisory cannot be read, it does: nobody has ruled it out."""
        try:
            if any(Version(one) == version for one in self.versions):
                return True
            return any(_within(events, version) for events in self.ranges)
        except InvalidVersion:
            return True


def _within(events: Sequence[Mapping[str, str]], version: Version) -> bool:
    """OSV's evaluation: the last event at or before the version decides."""
    inside = False
    for event in sorted(events, key=_place):
        if "introduced" in event:
            text = event["introduced"]
            inside = inside or text == "0" or version >= Version(text)
        elif "fixed" in event:
            inside = inside and version < Version(event["fixed"])
        elif "last_affected" in event:
            inside = inside and version <= Version(event["last_affected"])
    return inside


def _place(event: Mapping[str, str]) -> tuple[Version, int]:
    text = next(iter(event.values()))
    return Version(text), 0 if "introduced" in event else 1


@dataclass
class Known:
    count: int = 0
    newest: str = ""
    """The day of the last change, RFC 3339."""
    _by_name: dict[str, list[Advisory]] = field(default_factory=lambda: defaultdict(list))

    def of(self, name: str) -> Sequence[Advisory]:
        return self._by_name.get(name, ())

    def take(self, document: Mapping[str, Any]) -> None:
        if "vulnerabilities" in document:
            self._take_release(document)
        elif not document.get("withdrawn"):
            self.count += 1
            self.newest = max(self.newest, str(document.get("modified", ""))[:10])
            for affected in document.get("affected", ()):
                package = affected.get("package", {})
                if package.get("ecosystem") == "PyPI":
                    self._add(package["name"], _advisory(document, affected))

    def _take_release(self, document: Mapping[str, Any]) -> None:
        release = document["info"]
        for one in document["vulnerabilities"]:
            if not one.get("withdrawn"):
                self.count += 1
                summary = str(one.get("summary") or "")[:200]
                told = Advisory(str(one["id"]), summary, [release["version"]], ())
                self._add(release["name"], told)

    def _add(self, name: str, advisory: Advisory) -> None:
        self._by_name[canonicalize_name(name)].append(advisory)


def _advisory(document: Mapping[str, Any], affected: Mapping[str, Any]) -> Advisory:
    return Advisory(
        id=str(document["id"]),
        summary=str(document.get("summary") or "")[:200],
        versions=affected.get("versions") or (),
        ranges=[one["events"] for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM"],
    )


def advisories(snapshot: Path) -> Known:
    """Read a zip, a folder, or a file of one, a list, or lines of JSON. Raises `Unreadable`."""
    known = Known()
    for name, text in _files(snapshot):
        try:
            for document in _documents(text):
                known.take(document)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise Unreadable(f"{name} is no advisory: {type(fault).__name__} {fault}") from None
    if known.count == 0:
        raise Unreadable(f"{snapshot} holds no advisory")
    return known


def _files(snapshot: Path) -> Iterator[tuple[str, bytes]]:
    if snapshot.is_dir():
        for path in sorted(snapshot.rglob("*.json")):
            yield str(path), path.read_bytes()
    elif zipfile.is_zipfile(snapshot):
        with zipfile.ZipFile(snapshot) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    yield name, archive.read(name)
    else:
        yield str(snapshot), snapshot.read_bytes()


def _documents(text: bytes) -> list[Mapping[str, Any]]:
    try:
        document = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return document if isinstance(document, list) else [document]
