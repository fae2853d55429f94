"""Transactions read without a node: against known vectors, and a signer that is not ours."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.trace.ethereum import Rlp, TransactionFault, _encoded, keccak256, transaction

N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
        (b"a" * 500, "459d4d3dec1737165314cd15cafa5da1b779b796156dcb87415ee2ddc1dd417e"),
    ],
)
def test_keccak_gives_the_known_digests(message: bytes, digest: str) -> None:
    assert keccak256(message).hex() == digest


# Signed by eth-account with the key 0x0707…07, nonce 3, on chain 114.
KNOWN = (
    "02f8cc72030185174876e80082c35094111111111111111111111111111111111111111180b8640101010101"
    "0101010101010101010101010101010101010101010101010101010101010101010101010101010101010101"
    "0101010101010101010101010101010101010101010101010101010101010101010101010101010101010101"
    "01010101010101c080a079c9f90bfbe0bdbdbc0e4235601c26f594daec0038e53d101516a96367409352a051"
    "7c515cbef8e68803341706632a784ebdc4b7fef132c0e017b960c2c0a2af83"
)


def test_a_transaction_of_another_implementation_is_read() -> None:
    told = transaction(bytes.fromhex(KNOWN))
    assert told.hash.hex() == "fbcf2251a0b8eae8c96780d2b90d87db7bb59025ef8ff3b84659912b39c75bda"
    assert told.signer.hex() == "4a62316623ad457f02cdc5d997ded67a383ec569"
    assert (told.chain_id, told.to, told.data) == (114, b"\x11" * 20, b"\x01" * 100)


class Wallet:
    """Signs with a library that knows nothing of chains."""

    def __init__(self, secret: int) -> None:
        self._key = ec.derive_private_key(secret, ec.SECP256K1())
        numbers = self._key.public_key().public_numbers()
        self.address = keccak256(numbers.x.to_bytes(32) + numbers.y.to_bytes(32))[12:]

    def signed(self, to: bytes, data: bytes, chain_id: int = 114) -> bytes:
        fields: list[Rlp] = [
            bytes([chain_id]),
            b"\x01",
            b"\x01",
            b"\x02\x00",
            b"\xff\xff",
            to,
            b"",
            data,
            [],
        ]
        digest = keccak256(b"\x02" + _encoded(fields))
        prehashed = ec.ECDSA(Prehashed(hashes.SHA256()))
        r, s = decode_dss_signature(self._key.sign(digest, prehashed))
        s = min(s, N - s)
        for parity in (b"", b"\x01"):
            values: list[Rlp] = [parity, *(n.to_bytes(32).lstrip(b"\0") for n in (r, s))]
            raw = b"\x02" + _encoded([*fields, *values])
            if transaction(raw).signer == self.address:
                return raw
        raise AssertionError("neither parity gives the signer")


@settings(max_examples=12)
@given(st.integers(1, N - 1), st.binary(max_size=120))
def test_the_signer_is_recovered_whatever_was_signed(secret: int, data: bytes) -> None:
    wallet = Wallet(secret)
    told = transaction(wallet.signed(b"\x22" * 20, data))
    assert (told.signer, told.data) == (wallet.address, data)


@settings(max_examples=150)
@given(st.integers(0, len(KNOWN) // 2 - 1), st.integers(1, 255))
def test_a_changed_byte_gives_another_signer_or_none(place: int, by: int) -> None:
    raw = bytearray.fromhex(KNOWN)
    raw[place] ^= by
    try:
        told = transaction(bytes(raw))
    except TransactionFault:
        return
    assert told.signer.hex() != "4a62316623ad457f02cdc5d997ded67a383ec569"


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_what_is_no_transaction_is_refused(raw: bytes) -> None:
    for bad in (raw, b"\x02" + raw):
        with pytest.raises(TransactionFault):
            transaction(bad)
