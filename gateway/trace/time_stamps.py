"""Time stamps of heads (RFC 3161), verified without the authority.

A stamp is of the bytes of the signed checkpoint. The chain of certificates is held to the time of
the stamp, so a certificate that has expired since is as good as it was. Only this module needs
`rfc3161-client`: whoever has no time stamps to verify does without.
"""

import re
from collections.abc import Sequence

from cryptography import x509
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response


class BadStamp(Exception):
    """It is no stamp of these bytes by an authority under these roots."""


def stamped(answer: bytes, message: bytes, roots: Sequence[x509.Certificate]) -> str:
    """Return the time of a stamp, RFC 3339. Raises `BadStamp`.

    Verified are the signature over the stamp's content, the signer's chain to one of the roots, its
    extended key usage (timeStamping, critical) and that the content names the message's hash
    (SHA-256, 384 or 512).
    """
    builder = VerifierBuilder()
    for root in roots:
        builder = builder.add_root_certificate(root)
    try:
        response = decode_timestamp_response(answer)
        builder.build().verify_message(response, message)
    except (ValueError, VerificationError) as fault:
        raise BadStamp(_sentence(str(fault))) from None
    return response.tst_info.gen_time.isoformat().replace("+00:00", "Z")


def _sentence(fault: str) -> str:
    """The library's words, without OpenSSL's stack of errors but for the reason at its end."""
    told, _, stack = fault.partition(": ErrorStack")
    reasons = re.findall(r'Verify error: ([^"]+)', stack) or re.findall(r'reason: "([^"]+)', stack)
    return f"{told}: {reasons[-1]}" if reasons else told
