"""A time-stamp authority (RFC 3161) as an anchor: it signs that a checkpoint existed at a time.

Stamped are the bytes of the signed checkpoint. The answer is verified against the authority's root
before it is kept, and `openssl ts -verify` verifies it again years after.
"""

from collections.abc import Sequence

from cryptography import x509
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from gateway.anchors.place import AnchorUnusable, Opened, Place, outgoing
from gateway.anchors.values import Anchor, Condition, Final, Known, Progress, Receipt, Waiting
from gateway.clock import rfc3339
from gateway.egress.outgoing import Outgoing
from gateway.http1.client import Http1Error

_RETRY = 30.0
_BAD_RETRY = 60.0
_GRANTED = (0, 1)


class Timestamps:
    """One authority."""

    def __init__(self, outgoing: Outgoing, roots: bytes) -> None:
        """``roots`` is PEM. Raises ValueError when there is no certificate in it."""
        self._outgoing = outgoing
        self._roots = x509.load_pem_x509_certificates(roots)

    def close(self) -> None:
        self._outgoing.close()

    async def known(self, origin: str) -> Sequence[Known]:
        """An authority keeps nothing of what it stamps."""
        return ()

    async def advance(self, anchor: Anchor) -> Progress:
        note = anchor.head.note.encode()
        request = TimestampRequestBuilder().data(note).hash_algorithm(HashAlgorithm.SHA256).build()
        try:
            answer = await self._outgoing.post(request.as_bytes(), "application/timestamp-query")
        except Http1Error as fault:
            return Waiting(Condition.UNREACHABLE, str(fault), _RETRY)
        if answer.status != 200:
            return Waiting(Condition.UNREACHABLE, f"HTTP status {answer.status}", _RETRY)
        try:
            response = decode_timestamp_response(answer.body)
            self._verify(response, note, request.nonce)
        except (ValueError, VerificationError) as fault:
            detail = f"its answer is no time stamp of this checkpoint by a trusted root: {fault}"
            return Waiting(Condition.REFUSED, detail, _BAD_RETRY)
        stamped = response.tst_info.gen_time.timestamp()
        return Final(Receipt(at=rfc3339(stamped), proof=answer.body))

    def _verify(self, response: TimeStampResponse, note: bytes, nonce: int | None) -> None:
        if response.status not in _GRANTED:
            raise ValueError(f"it was refused with status {response.status}")
        builder = VerifierBuilder()
        for root in self._roots:
            builder = builder.add_root_certificate(root)
        if nonce is not None:
            builder = builder.nonce(nonce)
        builder.build().verify_message(response, note)


async def open_timestamps(place: Place) -> Opened:
    """Raises `AnchorUnusable`."""
    settings = place.settings
    if settings.anchor_tsa_url is None or settings.anchor_tsa_roots is None:
        raise AnchorUnusable("set GATEWAY_ANCHOR_TSA_URL and GATEWAY_ANCHOR_TSA_ROOTS")
    try:
        roots = settings.anchor_tsa_roots.read_bytes()
        backend = Timestamps(outgoing(settings, settings.anchor_tsa_url), roots)
    except (OSError, ValueError) as error:
        raise AnchorUnusable(f"{settings.anchor_tsa_roots}: {error}") from None
    identity = {"url": settings.anchor_tsa_url}
    return Opened("rfc3161", identity, backend, place.outbox("rfc3161"))
