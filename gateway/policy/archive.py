"""Finds a bundle that once decided, by the digest that records name."""

import hashlib
import re
from pathlib import Path

from gateway.policy.sources import BundleFault

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def archived(folder: Path, digest: str) -> bytes:
    """The archive with this digest (``sha256:<hex>``), checked against it. Raises `BundleFault`."""
    if not _DIGEST.fullmatch(digest):
        raise BundleFault(f"{digest} is no digest of a bundle")
    path = folder / f"{digest.replace(':', '-')}.tar.gz"
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise BundleFault(f"the bundle {digest} is not there: {error}") from None
    if digest != f"sha256:{hashlib.sha256(archive).hexdigest()}":
        raise BundleFault(f"{path} is not the bundle {digest}: its bytes were changed")
    return archive
