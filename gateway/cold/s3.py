"""Objects in S3, or what speaks like it. Imports obstore: import this module where it is used.

Credentials and region come from where S3's own tools have them (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
a role of the machine): see the documentation of obstore's `S3Store`.
"""

import re
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from gateway.cold.objects import S3, ColdAway, ColdDamaged

_SECONDS = "20s"
"""For one request."""
_PATIENCE = timedelta(seconds=30)
"""For one with its retries, which 503 and broken connections get."""
_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")


class Bucket:
    """See `gateway.cold.objects.Objects`."""

    def __init__(self, place: str, endpoint: str | None) -> None:
        """``place`` is ``s3://bucket`` or ``s3://bucket/prefix``; without ``endpoint`` Amazon's."""
        parts = urlsplit(place)
        self._place = place.rstrip("/")
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            endpoint=endpoint,
            virtual_hosted_style_request=endpoint is None,
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http:"),
                "timeout": _SECONDS,
                "connect_timeout": "5s",
            },
            retry_config={"max_retries": 5, "retry_timeout": _PATIENCE},
        )

    @property
    def place(self) -> str:
        return self._place

    def read(self, name: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError as fault:
            if "NoSuchBucket" in str(fault):
                raise ColdAway(f"there is no bucket {S3}{urlsplit(self._place).netloc}") from None
            raise ColdDamaged(f"{self._place}/{name} is missing; put it back from a copy") from None
        except BaseError as fault:
            raise self._away(name, fault) from None

    def make(self, name: str, content: bytes) -> bool:
        try:
            # Create is `If-None-Match: *`: of two that write, one is told.
            obstore.put(self._store, name, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except (BaseError, FileNotFoundError) as fault:
            raise self._away(name, fault) from None
        return True

    def replace(self, name: str, content: bytes) -> None:
        try:
            obstore.put(self._store, name, content, use_multipart=False)
        except (BaseError, FileNotFoundError) as fault:
            raise self._away(name, fault) from None

    def _away(self, name: str, fault: Exception) -> ColdAway:
        # Not the fault's text: a server's answer is in it, whole.
        status = _STATUS.search(str(fault))
        why = "no answer" if status is None else f"it answers {status[1].strip()}"
        hint = "check GATEWAY_COLD_STORE, GATEWAY_COLD_ENDPOINT and the AWS_ variables"
        return ColdAway(f"cold storage does not work: {self._place}/{name}: {why}; {hint}")
