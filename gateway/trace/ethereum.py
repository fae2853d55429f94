"""A signed Ethereum transaction, read without a node: who signed it, and what it says. Pure.

Only what an anchor needs: Keccak-256, RLP, EIP-1559 transactions, recovery of the signer from an
ECDSA signature on secp256k1 (SEC 1, section 4.1.6). Nothing here is secret, so nothing has to be
done in constant time. Needs the standard library alone.
"""

from typing import TypeAlias

from gateway.frozen import frozen

_TYPE = 0x02
_P = 2**256 - 2**32 - 977
_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_RATE = 136
_MASK = (1 << 64) - 1
_ROUNDS = 24

Rlp: TypeAlias = "bytes | list[Rlp]"
_Point: TypeAlias = tuple[int, int] | None


class TransactionFault(Exception):
    """These bytes are no signed EIP-1559 transaction."""


@frozen
class Transaction:
    """What its signer has said."""

    hash: bytes
    chain_id: int
    to: bytes
    data: bytes
    signer: bytes
    """Addresses are 20 bytes."""


def transaction(raw: bytes) -> Transaction:
    """Raises `TransactionFault`."""
    if raw[:1] != bytes([_TYPE]):
        raise TransactionFault("no EIP-1559 transaction")
    fields = _decoded(raw[1:])
    if not isinstance(fields, list) or len(fields) != 12:
        raise TransactionFault("not the twelve fields of a transaction")
    chain_id, to, data = (_text(fields[place]) for place in (0, 5, 7))
    parity, r, s = (int.from_bytes(_text(one)) for one in fields[9:])
    digest = keccak256(raw[:1] + _encoded(fields[:9]))
    return Transaction(
        hash=keccak256(raw),
        chain_id=int.from_bytes(chain_id),
        to=to,
        data=data,
        signer=_recovered(digest, parity, r, s),
    )


# --- Keccak (FIPS 202 before its padding was changed) ---


def keccak256(message: bytes) -> bytes:
    padded = bytearray(message) + b"\x01"
    padded += bytes(-len(padded) % _RATE)
    padded[-1] |= 0x80
    state = [0] * 25
    for start in range(0, len(padded), _RATE):
        for lane in range(_RATE // 8):
            place = start + 8 * lane
            state[lane] ^= int.from_bytes(padded[place : place + 8], "little")
        state = _permuted(state)
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])


def _permuted(state: list[int]) -> list[int]:
    feedback = 1
    for _ in range(_ROUNDS):
        state = _chi(_rho_and_pi(_theta(state)))
        for bit in range(7):
            # The round constants are a shift register's bits (section 3.2.5).
            if feedback & 1:
                state[0] ^= 1 << (1 << bit) - 1
            feedback = (feedback << 1) ^ (0x171 if feedback & 0x80 else 0)
    return state


def _turned(lane: int, by: int) -> int:
    return (lane << by | lane >> 64 - by) & _MASK


def _theta(state: list[int]) -> list[int]:
    columns = [
        state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20] for x in range(5)
    ]
    return [
        lane ^ columns[(n - 1) % 5] ^ _turned(columns[(n + 1) % 5], 1)
        for n, lane in ((place % 5, lane) for place, lane in enumerate(state))
    ]


def _rho_and_pi(state: list[int]) -> list[int]:
    turned = [state[0]] + [0] * 24
    x, y = 1, 0
    for step in range(24):
        lane = _turned(state[x + 5 * y], (step + 1) * (step + 2) // 2 % 64)
        x, y = y, (2 * x + 3 * y) % 5
        turned[x + 5 * y] = lane
    return turned


def _chi(state: list[int]) -> list[int]:
    return [
        lane ^ (~state[row + (place + 1) % 5] & state[row + (place + 2) % 5] & _MASK)
        for row, place, lane in ((5 * (n // 5), n % 5, lane) for n, lane in enumerate(state))
    ]


# --- RLP ---


def _decoded(raw: bytes) -> Rlp:
    item, rest = _item(raw)
    if rest:
        raise TransactionFault("bytes after the transaction")
    return item


def _item(raw: bytes) -> tuple[Rlp, bytes]:
    if not raw:
        raise TransactionFault("the transaction ends early")
    first = raw[0]
    if first < 0x80:
        return raw[:1], raw[1:]
    content, rest = _content(raw, 0x80 if first < 0xC0 else 0xC0)
    if first < 0xC0:
        return content, rest
    items: list[Rlp] = []
    while content:
        item, content = _item(content)
        items.append(item)
    return items, rest


def _content(raw: bytes, base: int) -> tuple[bytes, bytes]:
    size, start = raw[0] - base, 1
    if size > 55:
        start = 1 + size - 55
        size = int.from_bytes(raw[1:start])
    if len(raw) < start + size:
        raise TransactionFault("the transaction ends early")
    return raw[start : start + size], raw[start + size :]


def _encoded(item: Rlp) -> bytes:
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _headed(item, 0x80)
    return _headed(b"".join(_encoded(one) for one in item), 0xC0)


def _headed(content: bytes, base: int) -> bytes:
    size = len(content)
    if size <= 55:
        return bytes([base + size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([base + 55 + len(length)]) + length + content


def _text(item: Rlp) -> bytes:
    if not isinstance(item, bytes):
        raise TransactionFault("a list where a value is expected")
    return item


# --- secp256k1 ---


def _recovered(digest: bytes, parity: int, r: int, s: int) -> bytes:
    if not (0 < r < _N and 0 < s <= _N // 2 and parity in (0, 1)):
        raise TransactionFault("no signature")  # a high s is refused on chain (EIP-2)
    square = (pow(r, 3, _P) + 7) % _P
    y = pow(square, (_P + 1) // 4, _P)
    if y * y % _P != square:
        raise TransactionFault("no signature")
    point = (r, y if y & 1 == parity else _P - y)
    inverse = pow(r, -1, _N)
    public = _sum(
        _times(point, s * inverse % _N), _times(_G, -int.from_bytes(digest) * inverse % _N)
    )
    if public is None:
        raise TransactionFault("no signature")
    return keccak256(public[0].to_bytes(32) + public[1].to_bytes(32))[12:]


def _sum(one: _Point, other: _Point) -> _Point:
    if one is None or other is None:
        return one or other
    if one[0] == other[0]:
        if (one[1] + other[1]) % _P == 0:
            return None
        slope = 3 * one[0] * one[0] * pow(2 * one[1], -1, _P) % _P
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, _P) % _P
    x = (slope * slope - one[0] - other[0]) % _P
    return x, (slope * (one[0] - x) - one[1]) % _P


def _times(point: _Point, factor: int) -> _Point:
    total: _Point = None
    while factor:
        if factor & 1:
            total = _sum(total, point)
        point = _sum(point, point)
        factor >>= 1
    return total
