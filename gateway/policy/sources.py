"""Reads the folders that policy comes from into one tree of files, each source under its root."""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import jiter
import orjson

from gateway import assets
from gateway.frozen import frozen
from gateway.policy.argument_schemas import arguments_schema
from gateway.policy.features import UNKNOWN, Features, features_of

_DATA = {"data.json", "data.yaml", "data.yml"}


class BundleFault(Exception):
    """The policy cannot become a bundle; the message names file, line and what is wrong."""

    def __init__(self, reason: str, file: str | os.PathLike[str] = "", line: int = 0) -> None:
        self.reason = reason
        self.file = os.fspath(file)
        """Empty where no one file is to blame; then `line` is 0."""
        self.line = line
        where = f"{self.file}:{line}" if line else self.file
        super().__init__(f"{where}: {reason}" if where else reason)


@frozen
class Source:
    """A folder of Rego and data files, and the one root that both must stay under."""

    name: str
    """Unique in a bundle: the folder in the archive and the key in the manifest's metadata."""
    folder: Path
    root: tuple[str, ...]
    """The path in `data` where the folder lies: ``("connectors", "salesforce")``."""


@frozen
class Tree:
    """What the sources hold, composed: the content of a bundle but for its manifest."""

    files: Mapping[str, bytes]
    """Path in the archive to content; ``data.json`` among them."""
    tests: Mapping[str, bytes]
    """What only tests see: ``*_test.rego``, and in ``data.json`` the data with the samples."""
    origins: Mapping[str, Source]
    """Path of each Rego file, tests too, to where it came from."""
    hashes: Mapping[str, str]
    """Name of each source to the hex SHA-256 over its files in the bundle."""
    schemas: Mapping[str, bytes] = field(default_factory=dict)
    """What policies are checked with besides the gateway's own: path below ``schemas`` to it."""
    features: Features = UNKNOWN

    def real(self, path: str) -> str:
        """The file on disk behind a path in the archive; the path itself if there is none."""
        source = self.origins.get(path)
        if source is None:
            return path
        return str(source.folder / path.removeprefix(f"{source.name}/"))


def the_sources(policy_folders: Iterable[Path] = ()) -> list[Source]:
    """The gateway's own Rego, every connector template, and the organisation's folders."""
    rego = assets.asset("rego")
    own = [Source(root, rego / root, (root,)) for root in ("gateway", "lib", "policies")]
    try:
        templates = sorted(assets.asset("connector_templates").iterdir())
    except assets.AssetMissing:
        templates = []
    own += [Source(f"connectors/{t.name}", t, ("connectors", t.name)) for t in templates]
    # A folder that an operator named must exist; of our own, an empty one may be missing.
    return [source for source in own if source.folder.is_dir()] + [
        Source(f"organisation/{n}", folder, ("policies",))
        for n, folder in enumerate(policy_folders, 1)
    ]


def compose(sources: Iterable[Source], opa: Path) -> Tree:
    """Read every source. Raises `BundleFault`."""
    files: dict[str, bytes] = {}
    tests: dict[str, bytes] = {}
    origins: dict[str, Source] = {}
    hashes: dict[str, str] = {}
    data: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    schemas: dict[str, bytes] = {}
    for source in sources:
        if source.name in hashes:
            raise BundleFault(f"two policy sources are called {source.name}")
        digest = hashlib.sha256()
        for parts, content in _files(source):
            relative = "/".join(parts)
            inside = f"{source.name}/{relative}"
            if relative.endswith("_test.rego"):
                tests[inside], origins[inside] = content, source
                continue
            if relative.endswith(".rego"):
                digest.update(_hashed(relative, content))
                files[inside], origins[inside] = content, source
                continue
            path = source.folder / relative
            if _is_schema(source, parts):
                _add_schema(schemas, "/".join(parts[1:]), content, path)
                continue
            if _is_sample(parts):
                at = (*source.root[-1:], *parts[:-1])
                _overlay(samples, _under(at, _parsed(path, content, opa)), path)
                continue
            digest.update(_hashed(relative, content))
            document = _under((*source.root, *parts[:-1]), _parsed(path, content, opa))
            _overlay(data, document, path)
        hashes[source.name] = digest.hexdigest()
    features = features_of(files, data)
    data["bundle"] = features.as_document()
    files["data.json"] = canonical(data)
    _overlay(samples, data, Path("samples"))
    tests["data.json"] = canonical(samples)
    return Tree(files, tests, origins, hashes, schemas, features)


def canonical(document: Any) -> bytes:
    """Compact JSON with sorted keys, character for character as OPA hashes a signed file.

    OPA's encoder is Go's, which writes U+2028 and U+2029 as escapes.
    """
    text = orjson.dumps(document, default=_number, option=orjson.OPT_SORT_KEYS)
    return text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def _number(value: object) -> orjson.Fragment:
    if isinstance(value, jiter.LosslessFloat):
        return orjson.Fragment(bytes(value))
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _hashed(relative: str, content: bytes) -> bytes:
    return f"{relative}\0{len(content)}\0".encode() + content


def _files(source: Source) -> Iterator[tuple[tuple[str, ...], bytes]]:
    """The source's policies and data files in a fixed order, each with its place in the folder;
    nothing outside its folder. Every save waits for this, and objects for paths cost a third of it.
    """
    folder = str(source.folder)
    try:
        real = source.folder.resolve(strict=True)
        for parts, is_link in sorted(_walk(folder, ())):
            # A link may lead elsewhere inside the folder, never out of it.
            path = os.path.join(folder, *parts)
            if is_link and not Path(path).resolve(strict=True).is_relative_to(real):
                raise BundleFault(f"is a link that leaves {source.folder}", path)
            if _belongs(parts[-1]) or _is_sample(parts) or _is_schema(source, parts):
                with open(path, "rb") as file:
                    yield parts, file.read()
    except OSError as error:
        raise BundleFault(f"cannot be read: {error.strerror}", error.filename) from None


def _walk(folder: str, below: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The place of each file, and whether it is a link."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A linked folder is not walked into, and is looked at like a file: does it lead out?
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, (*below, entry.name))
            else:
                yield (*below, entry.name), entry.is_symlink()


def _belongs(name: str) -> bool:
    return name in _DATA or name.endswith(".rego")


def _is_sample(parts: tuple[str, ...]) -> bool:
    """A call for tests, beside them: `opa test` over the folder's parent puts it at the same
    place in ``data``.
    """
    return parts[-1].endswith(".json") and parts[-1] not in _DATA and "samples" in parts


def _is_schema(source: Source, parts: tuple[str, ...]) -> bool:
    """The arguments of a tool, in a folder of the organisation's policy."""
    return (
        source.root == ("policies",)
        and parts[-1].endswith(".json")
        and parts[:2] == ("schemas", "tools")
    )


def _add_schema(schemas: dict[str, bytes], name: str, content: bytes, path: Path) -> None:
    try:
        schema = orjson.dumps(arguments_schema(orjson.loads(content)))
    except ValueError as error:
        raise BundleFault(f"is no JSON schema: {error}", path) from None
    if schemas.setdefault(name, schema) != schema:
        raise BundleFault(f"another folder of policy has another schema {name}", path)


def _parsed(path: Path, content: bytes, opa: Path) -> Any:
    if path.suffix != ".json":
        content = _as_json(path, opa)
    try:
        return jiter.from_json(
            content, catch_duplicate_keys=True, allow_inf_nan=False, float_mode="lossless-float"
        )
    except ValueError as error:
        raise BundleFault(str(error), path) from None


def _as_json(path: Path, opa: Path) -> bytes:
    """OPA reads YAML itself, so that its author's `opa test` and the gateway see the same."""
    try:
        done = subprocess.run(
            [opa, "eval", "--format", "raw", "--data", path, "data"],
            capture_output=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleFault(f"opa cannot read it: {error}", path) from None
    if done.returncode != 0:
        raise BundleFault(done.stderr.decode(errors="replace").strip(), path)
    return done.stdout


def _under(at: tuple[str, ...], document: Any) -> dict[str, Any]:
    for segment in reversed(at):
        document = {segment: document}
    return dict(document)


def _overlay(onto: dict[str, Any], document: dict[str, Any], path: Path) -> None:
    """Put `document` into `onto`; two files may share objects, never a value."""
    for key, value in document.items():
        if key not in onto:
            onto[key] = value
        elif isinstance(onto[key], dict) and isinstance(value, dict):
            _overlay(onto[key], value, path)
        else:
            raise BundleFault(f"another data file already says what {key} is", path)
