"""Makes the one bundle: composed, checked, archived, signed, and loaded once as a proof."""

import base64
import gzip
import hashlib
import hmac
import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway import assets
from gateway.policy.sources import BundleFault, Source, Tree, canonical, compose

__all__ = ["Bundle", "BundleFault", "build_bundle", "keep", "last_good"]

_OPA_SECONDS = 60
_LAST_GOOD = "last-good.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive that OPA can load, and its two names."""

    revision: str
    """``sha256:<hex>`` over the sorted contents: the same sources, the same revision."""
    digest: str
    """``sha256:<hex>`` of the archive's bytes: what a decision record names."""
    archive: bytes


def build_bundle(
    sources: Iterable[Source], *, opa: Path, key: bytes, rego: Path | None = None
) -> Bundle:
    """Compose the sources into a bundle that is proved to load.

    `key` signs (HS256 with its hex, see `signing_secret`); `rego` holds ``schemas/`` and
    ``capabilities.json``, by default the gateway's own. The bytes depend on nothing but the
    sources and the key. Raises `BundleFault` with OPA's own words: file, row, message.
    """
    rego = rego or assets.asset("rego")
    tree = compose(sources, opa)
    revision = f"sha256:{_contents_hash(tree.files)}"
    manifest = {
        "revision": revision,
        "roots": [""],
        "rego_version": 2,
        "metadata": {"sources": {name: f"sha256:{h}" for name, h in tree.hashes.items()}},
    }
    files = {**tree.files, ".manifest": canonical(manifest)}
    archive = _archive({**files, ".signatures.json": _signatures(files, key)})
    with tempfile.TemporaryDirectory(prefix="gateway-bundle-") as aside:
        folder = Path(aside, "tree")
        _write(folder, files)
        _check(opa, folder, rego)
        _check_roots(opa, folder, tree)
        packed = Path(aside, "bundle.tar.gz")
        packed.write_bytes(archive)
        _prove(opa, packed, rego)
    return Bundle(revision, f"sha256:{hashlib.sha256(archive).hexdigest()}", archive)


def signing_secret(key: bytes) -> str:
    """The HS256 secret as OPA is given it: the bundle key in hex."""
    return key.hex()


def keep(bundle: Bundle, folder: Path) -> None:
    """Store a bundle that is about to serve, so that a restart can serve it again.

    The archive is durable under its own digest before the pointer names it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _replace(folder / _archive_name(bundle.digest), bundle.archive)
    pointer = {"revision": bundle.revision, "digest": bundle.digest}
    _replace(folder / _LAST_GOOD, orjson.dumps(pointer))


def last_good(folder: Path) -> Bundle | None:
    """The bundle `keep` stored last; None when there is none or its bytes are not its digest's."""
    try:
        pointer = orjson.loads((folder / _LAST_GOOD).read_bytes())
        revision, digest = str(pointer["revision"]), str(pointer["digest"])
        archive = (folder / _archive_name(digest)).read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if digest != f"sha256:{hashlib.sha256(archive).hexdigest()}":
        return None
    return Bundle(revision, digest, archive)


def _archive_name(digest: str) -> str:
    return digest.replace(":", "-") + ".tar.gz"


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(path.name + ".new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def _contents_hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz whose bytes say nothing of the machine, the user or the hour."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(f"/{name}")
            entry.size = len(files[name])
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()


def _signatures(files: Mapping[str, bytes], key: bytes) -> bytes:
    """``.signatures.json``: one JWT over every file's SHA-256 (OPA's "Bundle File Format").

    Data and manifest are hashed by content, in a canonical form that `canonical` already wrote.
    """
    claims = {
        "files": [
            {
                "name": name,
                "hash": hashlib.sha256(files[name]).hexdigest(),
                "algorithm": "SHA-256",
            }
            for name in sorted(files)
        ]
    }
    signed = b".".join(_base64url(part) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    mac = hmac.digest(signing_secret(key).encode(), signed, "sha256")
    token = signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
    return orjson.dumps({"signatures": [token.decode()]})


def _base64url(part: Mapping[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _check(opa: Path, folder: Path, rego: Path) -> None:
    _opa(
        folder,
        *(opa, "check", "--strict", "--bundle", folder),
        *("--schema", rego / "schemas", "--capabilities", rego / "capabilities.json"),
    )


def _check_roots(opa: Path, folder: Path, tree: Tree) -> None:
    """Each package must lie under its own source's root, or a folder could replace the router."""
    inspected = orjson.loads(_opa(folder, opa, "inspect", "--format", "json", folder))
    for namespace, files in inspected.get("namespaces", {}).items():
        for file in files:
            source = tree.origins.get(str(file).removeprefix(str(folder)).lstrip("/"))
            if source is not None and not _under(str(namespace), source.root):
                package = str(namespace).removeprefix("data.")
                raise BundleFault(
                    f"{file}: package {package} is outside {'.'.join(source.root)}, "
                    f"the only root that {source.folder} may fill"
                )


def _under(namespace: str, root: tuple[str, ...]) -> bool:
    found = re.findall(r'\["((?:[^"\\]|\\.)*)"\]|\.?([^.\[]+)', namespace.removeprefix("data"))
    segments = tuple(quoted or plain for quoted, plain in found)
    return segments[: len(root)] == root


def _prove(opa: Path, packed: Path, rego: Path) -> None:
    """Load the very bytes that will be served, and ask the router about nothing at all."""
    answer = _opa(
        packed.parent,
        *(opa, "eval", "--bundle", packed, "--capabilities", rego / "capabilities.json"),
        *("--format", "json", "--stdin-input", "data.gateway.decision"),
        stdin=b"{}",
    )
    try:
        value = orjson.loads(answer)["result"][0]["expressions"][0]["value"]
    except (ValueError, KeyError, IndexError):
        value = None
    if not isinstance(value, dict):
        raise BundleFault("the bundle loads, but data.gateway.decision has no answer to {}")


def _opa(folder: Path, *command: str | Path, stdin: bytes = b"") -> bytes:
    """Run OPA with an empty environment; its complaint, without our folder's name, is the fault."""
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, env={}, timeout=_OPA_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BundleFault(f"cannot run {command[0]}: {error}") from error
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BundleFault(complaint.replace(f"{folder}/", ""))
    return done.stdout
