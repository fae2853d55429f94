"""An evidence bundle as it lies on disk, a folder or a zip file: what is in it, read safely.

    manifest.json               what was asked for, by project, time and filter
    logs/<n>/log.json           the log's name and verifier key, for information only
    logs/<n>/checkpoint.txt     its signed head
    logs/<n>/entries.jsonl      the records, each with its proof and what is disclosed of it
    logs/<n>/leaves.bin         every leaf hash of the log, 32 bytes each (optional)
    logs/<n>/consistency.json   proofs that the head extends earlier ones
    logs/<n>/anchors.json       where heads were anchored
    logs/<n>/keys.json          heads at which the log went on under another key (optional)
    policy/<digest>.tar.gz      the policy bundles that decided (optional)

Needs the standard library alone, because whoever verifies evidence has nothing else.
"""

import binascii
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import IO, Any

from gateway.frozen import frozen

FORMAT = "policy-gateway-evidence/1"
MANIFEST = "manifest.json"
LARGEST_FILE = 1 << 30
"""Of what is read whole; a compressed file may claim to be anything."""
_LARGEST_LINE = 64 << 20
_READ_AHEAD = 1 << 18
_LOG = re.compile(r"logs/(\d{1,5})/")


class BundleUnreadable(Exception):
    """It is no bundle, or a part of it is missing or damaged: nothing can be told from it."""


@frozen
class Entry:
    """One record, as it was hashed, with the way to the root."""

    index: int
    record: bytes
    proof: tuple[bytes, ...]
    disclosed: Mapping[str, tuple[bytes, bytes]] = field(repr=False)
    """Nonce and value, by field."""
    erased: tuple[str, ...]
    """Fields whose value the gateway does not have any more."""


@frozen
class Anchored:
    """A head of the log in somebody else's book, and the proof that the checkpoint extends it."""

    backend: str
    size: int
    root: bytes
    consistency: tuple[bytes, ...]
    tx_hash: str
    raw: bytes = field(repr=False)
    """The signed transaction, or what else the backend gave as proof; empty without one."""
    at: str
    note: str = field(repr=False)
    """The signed checkpoint, which is what a time-stamp authority stamps."""


@frozen
class HandedOver:
    """A record by which the log goes on under another key, and the head that ends with it."""

    index: int
    record: bytes
    proof: tuple[bytes, ...]
    """The way from the record to the root of that head."""
    note: str
    consistency: tuple[bytes, ...]
    """That the checkpoint extends that head."""


class Bundle:
    """Open for reading; close it."""

    def __init__(self, path: Path) -> None:
        """Raises `BundleUnreadable`."""
        self._folder: Path | None = None
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            self._folder = path
            self._names = frozenset(
                one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()
            )
        else:
            try:
                self._zip = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as fault:
                raise BundleUnreadable(f"{path} is neither a folder nor a zip: {fault}") from None
            self._names = frozenset(self._zip.namelist())
        self.manifest = self.document(MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise BundleUnreadable(f"{path} is not in the format {FORMAT}")

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    @property
    def logs(self) -> list[int]:
        """The numbers of the logs in it."""
        return sorted({int(found[1]) for name in self._names if (found := _LOG.match(name))})

    def has(self, name: str) -> bool:
        return name in self._names

    def open(self, name: str) -> IO[bytes]:
        """Raises `BundleUnreadable` when there is no such file."""
        try:
            if name not in self._names:
                raise FileNotFoundError(name)
            if self._zip is not None:
                return self._zip.open(name)
            assert self._folder is not None
            return (self._folder / name).open("rb")
        except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
            raise BundleUnreadable(f"{name} is missing, or cannot be opened") from None

    def read(self, name: str) -> bytes:
        try:
            with self.open(name) as file:
                raw = file.read(LARGEST_FILE + 1)
        except (OSError, zipfile.BadZipFile, EOFError, binascii.Error) as fault:
            raise BundleUnreadable(f"{name} cannot be read: {fault}") from None
        if len(raw) > LARGEST_FILE:
            raise BundleUnreadable(f"{name} has more than {LARGEST_FILE} bytes")
        return raw

    def text(self, name: str) -> str:
        try:
            return self.read(name).decode()
        except UnicodeDecodeError:
            raise BundleUnreadable(f"{name} is not UTF-8") from None

    def document(self, name: str) -> dict[str, Any]:
        return _object(self.read(name), name)

    def entries(self, log: int) -> Iterator[Entry]:
        """The log's records in the order of the file. Raises `BundleUnreadable` at a bad line."""
        name = f"logs/{log}/entries.jsonl"
        # A zip file's own `readline` takes as long as reading what is in the line.
        with self.open(name) as packed, io.BufferedReader(packed, _READ_AHEAD) as file:  # type: ignore[type-var]
            number = 0
            while line := _line(file, name):
                number += 1
                try:
                    yield _entry(_object(line, name))
                except (KeyError, TypeError, ValueError, AttributeError):
                    raise BundleUnreadable(f"{name}:{number} is no entry") from None

    def leaves(self, log: int) -> Iterator[bytes] | None:
        """Every leaf hash of the log; None when the bundle does not hold them."""
        name = f"logs/{log}/leaves.bin"
        return self._leaves(name) if self.has(name) else None

    def _leaves(self, name: str) -> Iterator[bytes]:
        with self.open(name) as file:
            yield from _leaves(file, name)

    def consistency(self, log: int) -> dict[int, tuple[bytes, ...]]:
        """Proofs that the checkpoint extends a smaller tree, by its size."""
        name = f"logs/{log}/consistency.json"
        if not self.has(name):
            return {}
        try:
            return {int(size): _hashes(proof) for size, proof in self.document(name).items()}
        except (TypeError, ValueError):
            raise BundleUnreadable(f"{name} holds what is no proof") from None

    def anchors(self, log: int) -> list[Anchored]:
        name = f"logs/{log}/anchors.json"
        if not self.has(name):
            return []
        try:
            return [_anchored(one) for one in self.document(name)["anchors"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BundleUnreadable(f"{name} holds what is no anchor") from None

    def hand_overs(self, log: int) -> list[HandedOver]:
        """Where the log went on under another key; oldest first."""
        name = f"logs/{log}/keys.json"
        if not self.has(name):
            return []
        try:
            return [_handed_over(one) for one in self.document(name)["keys"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BundleUnreadable(f"{name} holds what is no hand-over") from None


def _line(file: IO[bytes], name: str) -> bytes:
    try:
        line = file.readline(_LARGEST_LINE + 1)
    except (OSError, zipfile.BadZipFile, EOFError) as fault:
        raise BundleUnreadable(f"{name} cannot be read: {fault}") from None
    if len(line) > _LARGEST_LINE:
        raise BundleUnreadable(f"{name} holds a line of more than {_LARGEST_LINE} bytes")
    return line


def _object(raw: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise BundleUnreadable(f"{name} is no JSON object")
    return document


def _entry(line: dict[str, Any]) -> Entry:
    disclosed = {
        str(name): (_bytes(one["nonce"]), _bytes(one["value"]))
        for name, one in line.get("disclosed", {}).items()
    }
    return Entry(
        index=_integer(line["index"]),
        record=str.encode(line["record"]),
        proof=_hashes(line["proof"]),
        disclosed=disclosed,
        erased=tuple(str(name) for name in line.get("erased", ())),
    )


def _anchored(one: dict[str, Any]) -> Anchored:
    return Anchored(
        backend=str(one["backend"]),
        size=_integer(one["size"]),
        root=_bytes(one["root"]),
        consistency=_hashes(one["consistency"]),
        tx_hash=str(one.get("tx_hash") or ""),
        raw=_bytes(one.get("proof") or ""),
        at=str(one.get("anchored_at") or ""),
        note=str(one.get("note") or ""),
    )


def _handed_over(one: dict[str, Any]) -> HandedOver:
    return HandedOver(
        index=_integer(one["index"]),
        record=str.encode(one["record"]),
        proof=_hashes(one["proof"]),
        note=str(one["note"]),
        consistency=_hashes(one["consistency"]),
    )


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(value)
    return binascii.a2b_base64(value, strict_mode=True)


def _hashes(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise TypeError(value)
    # A bundle of a million records has twenty million of them: straight to the decoder.
    hashes = tuple([binascii.a2b_base64(one, strict_mode=True) for one in value])
    if any([len(one) != 32 for one in hashes]):
        raise ValueError("no SHA-256")
    return hashes


def _leaves(file: IO[bytes], name: str) -> Iterator[bytes]:
    while True:
        try:
            block = file.read(32 * 4096)
        except (OSError, zipfile.BadZipFile, EOFError) as fault:
            raise BundleUnreadable(f"{name} cannot be read: {fault}") from None
        if not block:
            return
        view = io.BytesIO(block)
        while leaf := view.read(32):
            yield leaf
