"""Makes the one bundle, and keeps every one that served: archived, signed, named by digest."""

import base64
import gzip
import hashlib
import hmac
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from gateway import assets
from gateway.durable import write_file
from gateway.frozen import frozen
from gateway.policy import proof
from gateway.policy.archive import archived
from gateway.policy.features import UNKNOWN, Features, features_in
from gateway.policy.sources import BundleFault, Source, Tree, canonical, compose

_LAST_GOOD = "last-good.json"


@frozen
class Bundle:
    """An archive that OPA can load, and its two names."""

    revision: str
    """``sha256:<hex>`` over the sorted contents: the same sources, the same revision."""
    digest: str
    """``sha256:<hex>`` of the archive's bytes: what a decision record names."""
    archive: bytes
    features: Features = UNKNOWN


def build_bundle(
    sources: Iterable[Source], *, opa: Path, key: bytes, rego: Path | None = None
) -> Bundle:
    """Compose the sources into a bundle that is proved to load. Tests are not run.

    `key` signs (HS256 with its hex, see `signing_secret`); `rego` holds ``schemas/`` and
    ``capabilities.json``, by default the gateway's own. Raises `BundleFault`.
    """
    tree = compose(sources, opa)
    bundle = pack(tree, key)
    proof.prove(proof.Commands(opa), bundle.archive, tree, rego or assets.asset("rego"))
    return bundle


def pack(tree: Tree, key: bytes) -> Bundle:
    """The signed archive. Its bytes depend on nothing but the tree and the key."""
    revision = f"sha256:{_contents_hash(tree.files)}"
    manifest = {
        "revision": revision,
        "roots": [""],
        "rego_version": 2,
        "metadata": {"sources": {name: f"sha256:{h}" for name, h in tree.hashes.items()}},
    }
    files = {**tree.files, ".manifest": canonical(manifest)}
    archive = _archive({**files, ".signatures.json": _signatures(files, key)})
    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    return Bundle(revision, digest, archive, tree.features)


def is_same(one: Bundle, other: Bundle) -> bool:
    """Whether they hold the same bytes, signatures included, maybe compressed by another zlib."""
    return one.revision == other.revision and (
        one.digest == other.digest or _unpacked(one) == _unpacked(other)
    )


def _unpacked(bundle: Bundle) -> bytes:
    return gzip.decompress(bundle.archive)


def signing_secret(key: bytes) -> str:
    """The HS256 secret as OPA is given it: the bundle key in hex."""
    return key.hex()


def store(bundle: Bundle, folder: Path) -> None:
    """Keep the archive under its digest: durable before it may serve, and there for ever after,
    because decision records name it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _archive_name(bundle.digest)
    if not path.exists():
        write_file(path, bundle.archive)


def keep(bundle: Bundle, folder: Path, tried: str = "") -> None:
    """Store a bundle as the one that serves after a restart, whatever the sources are then.

    `tried` names all that was checked and tested with it. The archive is durable before the
    pointer names it.
    """
    store(bundle, folder)
    pointer = {
        "revision": bundle.revision,
        "digest": bundle.digest,
        "tried": tried,
        "features": bundle.features.as_document(),
    }
    write_file(folder / _LAST_GOOD, orjson.dumps(pointer))


def last_good(folder: Path) -> Bundle | None:
    """The bundle `keep` stored last; None when there is none or its bytes are not its digest's."""
    try:
        pointer = _pointer(folder)
        revision, digest = str(pointer["revision"]), str(pointer["digest"])
        features = features_in(pointer.get("features"))
        return Bundle(revision, digest, archived(folder, digest), features)
    except (KeyError, BundleFault):
        return None


def last_tried(folder: Path) -> str:
    """What was tried with the last good bundle."""
    return str(_pointer(folder).get("tried", ""))


def _pointer(folder: Path) -> Mapping[str, object]:
    try:
        pointer = orjson.loads((folder / _LAST_GOOD).read_bytes())
    except (OSError, ValueError):
        return {}
    return pointer if isinstance(pointer, dict) else {}


def sources_of(bundle: Bundle) -> dict[str, str]:
    """What the manifest says of where it came from: each source's name to ``sha256:<hex>``."""
    with tarfile.open(fileobj=io.BytesIO(bundle.archive)) as tar:
        manifest = tar.extractfile("/.manifest")
        assert manifest is not None
        sources = orjson.loads(manifest.read())["metadata"]["sources"]
    return {str(name): str(revision) for name, revision in sources.items()}


def _archive_name(digest: str) -> str:
    return digest.replace(":", "-") + ".tar.gz"


def _contents_hash(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A tar.gz whose bytes say nothing of the machine, the user or the hour."""
    packed = io.BytesIO()
    # Every save waits for this: a fifth more bytes in half the time.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=1, mtime=0) as zipped,
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
