"""What an anchor in a bundle shows by itself, and what a node of the chain says of it.

An anchor is a call ``anchor(bytes32 logId, uint64 size, bytes32 root)``, signed by the gateway's
chain key; logId is Keccak-256 of the log's name. Needs the standard library alone.
"""

import json
import urllib.error
import urllib.request
from typing import Any

from gateway.frozen import frozen
from gateway.trace.bundle import Anchored
from gateway.trace.ethereum import Transaction, TransactionFault, keccak256, transaction

ANCHOR = keccak256(b"anchor(bytes32,uint64,bytes32)")[:4]
ANCHORED = keccak256(b"Anchored(address,bytes32,uint64,bytes32,uint64,uint64)")
_SECONDS = 10.0
_LARGEST_ANSWER = 4 << 20


class NotOurs(Exception):
    """The anchor is not of this head: evidence of change."""


class Unanswered(Exception):
    """The node cannot be asked, or does not know."""


@frozen
class Shown:
    """What a signed transaction shows without a node."""

    writer: str
    contract: str
    chain_id: int
    tx_hash: str


def offline(anchor: Anchored, origin: str) -> Shown | None:
    """Read the signed transaction; None for an anchor that has none. Raises `NotOurs`."""
    if not anchor.raw:
        return None
    try:
        told = transaction(anchor.raw)
    except TransactionFault as fault:
        raise NotOurs(f"the signed transaction is none: {fault}") from None
    if told.data != ANCHOR + _arguments(origin, anchor):
        raise NotOurs("the signed transaction anchors another head")
    shown = _shown(told)
    if anchor.tx_hash and anchor.tx_hash.lower() != shown.tx_hash:
        raise NotOurs(f"the signed transaction is {shown.tx_hash}")
    return shown


def _arguments(origin: str, anchor: Anchored) -> bytes:
    return keccak256(origin.encode()) + anchor.size.to_bytes(32) + anchor.root


def _shown(told: Transaction) -> Shown:
    return Shown(_hex(told.signer), _hex(told.to), told.chain_id, _hex(told.hash))


def online(url: str, anchor: Anchored, origin: str, shown: Shown | None) -> str:
    """Ask a node whether the chain took it; returns by whom and where.

    Raises `Unanswered`, and `NotOurs` when the chain holds something else there.
    """
    if shown is not None:
        chain_id = _ask(url, "eth_chainId", [])
        if not isinstance(chain_id, str) or int(chain_id, 16) != shown.chain_id:
            raise Unanswered(f"the node is of another chain than {shown.chain_id}")
    tx_hash = shown.tx_hash if shown is not None else anchor.tx_hash
    receipt = _ask(url, "eth_getTransactionReceipt", [tx_hash])
    if not isinstance(receipt, dict):
        raise Unanswered(f"the node does not know the transaction {tx_hash}")
    if receipt.get("status") != "0x1":
        raise NotOurs(f"the transaction {tx_hash} was reverted")
    for event in receipt.get("logs") or ():
        if found := _event(event, anchor, origin, shown):
            return f"{found} in block {int(str(receipt.get('blockNumber')), 16)}"
    raise NotOurs(f"the transaction {tx_hash} anchored something else")


def _event(event: dict[str, Any], anchor: Anchored, origin: str, shown: Shown | None) -> str:
    topics, data = event.get("topics") or [], str(event.get("data"))
    head = [_hex(keccak256(origin.encode())), _hex(anchor.size.to_bytes(32))]
    if len(topics) != 4 or [topics[0], *topics[2:]] != [_hex(ANCHORED), *head]:
        return ""
    if data[:66] != _hex(anchor.root):
        return ""
    writer, contract = "0x" + str(topics[1])[-40:], str(event.get("address")).lower()
    if shown is not None and (writer, contract) != (shown.writer, shown.contract):
        return ""
    return f"writer {writer} at {contract}"


def _ask(url: str, method: str, parameters: list[str]) -> Any:
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    request = urllib.request.Request(
        url, json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            told = json.loads(answer.read(_LARGEST_ANSWER))
    except (OSError, ValueError, urllib.error.URLError) as fault:
        raise Unanswered(f"the node does not answer: {fault}") from None
    if not isinstance(told, dict) or "error" in told or "result" not in told:
        raise Unanswered(f"the node refuses {method}")
    return told["result"]


def _hex(raw: bytes) -> str:
    return "0x" + raw.hex()
