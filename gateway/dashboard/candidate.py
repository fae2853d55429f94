"""A candidate policy as people have it: a module, or an archive of a policy folder or a bundle."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO

from gateway.dashboard.visitor import Upload

MODULE = "candidate/candidate.rego"
"""Where a single module lies among the organisation's policy."""
MAX_FILES = 200
MAX_FILE = 256 << 10
MAX_ALL = 4 << 20
"""Bytes, unpacked."""
_SUFFIXES = (".rego", ".json", ".yaml", ".yml")
_ORGANISATION = "organisation"
"""In a bundle of the gateway's: the folders that organisations bring, by number."""


class CandidateFault(Exception):
    """The upload is nothing that can be tried; the message says what is wrong and what would do."""


def files_of(upload: Upload) -> dict[str, str]:
    """Path below the folder of policy to text. Raises `CandidateFault`."""
    name = upload.name.lower()
    if name.endswith(".rego"):
        return {MODULE: _text(upload.name, upload.content)}
    if name.endswith((".tar.gz", ".tgz")):
        found = dict(_limited(_tar(upload.content)))
    elif name.endswith(".zip"):
        found = dict(_limited(_zip(upload.content)))
    else:
        raise CandidateFault("Choose a .rego file, or a .tar.gz or .zip of a policy folder.")
    files = _brought(found)
    if not any(path.endswith(".rego") for path in files):
        raise CandidateFault(f"There is no Rego in {upload.name}.")
    return files


def _brought(found: Mapping[str, str]) -> dict[str, str]:
    """Of a bundle what the organisation brought: the rest is the gateway's, and is there."""
    if not any(path.startswith(f"{_ORGANISATION}/") for path in found):
        return dict(found)
    parts = [(path.split("/", 2), text) for path, text in found.items()]
    return {p[2]: text for p, text in parts if p[0] == _ORGANISATION and len(p) == 3}


def _limited(members: Iterator[tuple[str, int, IO[bytes]]]) -> Iterator[tuple[str, str]]:
    """The policies and data among the members, read as far as the limits go."""
    count = size = 0
    for name, said, file in members:
        path = PurePosixPath(name)
        inside = path.relative_to("/") if path.is_absolute() else path
        if inside.suffix not in _SUFFIXES or any(part.startswith(".") for part in inside.parts):
            continue
        count += 1
        if count > MAX_FILES:
            raise CandidateFault(f"It holds more than {MAX_FILES} files of policy and data.")
        # What is said of a member's size is the sender's word.
        content = b"" if said > MAX_FILE else file.read(MAX_FILE + 1)
        size += len(content)
        if max(said, len(content)) > MAX_FILE:
            raise CandidateFault(f"{inside} has more than {MAX_FILE >> 10} KiB.")
        if size > MAX_ALL:
            raise CandidateFault(f"It unpacks to more than {MAX_ALL >> 20} MiB.")
        yield str(inside), _text(str(inside), content)


def _tar(content: bytes) -> Iterator[tuple[str, int, IO[bytes]]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(_unzipped(content))) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield member.name, member.size, file
    except (tarfile.TarError, OSError, zlib.error, EOFError) as fault:
        raise CandidateFault(f"It cannot be read as a .tar.gz: {fault}.") from None


def _unzipped(content: bytes) -> bytes:
    """A few bytes may unpack to any number."""
    most = 4 * MAX_ALL
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        unpacked = file.read(most + 1)
    if len(unpacked) > most:
        raise CandidateFault(f"It unpacks to more than {most >> 20} MiB.")
    return unpacked


def _zip(content: bytes) -> Iterator[tuple[str, int, IO[bytes]]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as file:
                        yield member.filename, member.file_size, file
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as fault:
        raise CandidateFault(f"It cannot be read as a .zip: {fault}.") from None


def _text(name: str, content: bytes) -> str:
    if len(content) > MAX_FILE:
        raise CandidateFault(f"{name} has more than {MAX_FILE >> 10} KiB.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise CandidateFault(f"{name} is no text in UTF-8.") from None
