"""From the settings to the objects of cold storage."""

from pathlib import Path

from gateway.cold.objects import S3, ColdAway, Folder, Objects
from gateway.cold.reading import ColdStore


def cold_store(place: str | None, endpoint: str | None = None) -> ColdStore | None:
    """``place`` is a folder or ``s3://bucket/prefix``. Asks nothing of a network.

    Raises `ColdAway` when it can never work: no such folder, no library for S3.
    """
    if place is None:
        return None
    if not place.startswith(S3):
        folder = Path(place)
        if not folder.is_dir():
            raise ColdAway(f"GATEWAY_COLD_STORE: there is no folder {folder}; make it")
        return ColdStore(Folder(folder))
    return ColdStore(_bucket(place, endpoint))


def _bucket(place: str, endpoint: str | None) -> Objects:
    try:
        from gateway.cold.s3 import Bucket  # noqa: PLC0415 - imports obstore
    except ImportError as error:
        fault = f"{error.name} is missing: install policy-gateway with its extra `s3`"
        raise ColdAway(f"GATEWAY_COLD_STORE: {fault}") from None
    return Bucket(place, endpoint)
