"""A Flare node, asked through web3: the one place that imports it, and only when Flare is set up.

Answers are typed values; every fault of the node or of the way to it is `NodeDown`, so that what
follows decides by receipts and heads, never by an error's text.
"""

from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import AsyncWeb3, Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3Exception, Web3RPCError
from web3.middleware import ExtraDataToPOAMiddleware
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import Nonce, RPCEndpoint, RPCResponse
from web3.utils.address import get_create_address

from gateway.anchors.contract import artifact
from gateway.anchors.fees import Fees, Market
from gateway.egress.outgoing import Outgoing
from gateway.frozen import frozen
from gateway.http1.client import Http1Error

LOG_WINDOW = 30
"""Blocks that the public nodes search for events in one request."""


class NodeDown(Exception):
    """The node cannot be reached, or gave no usable answer."""


class Reverted(Exception):
    """The contract refuses the call: `Fork`, `NotNewer`, or something that is not our contract."""


class SendRefused(Exception):
    """The node did not take a transaction. That says nothing of whether it has it already."""


@frozen
class ChainHead:
    """What the contract holds for a writer and a log; size 0 when it holds nothing."""

    size: int
    seq: int
    block: int
    root: bytes


@frozen
class Event:
    """One `Anchored` event."""

    size: int
    root: bytes
    seq: int
    prev_block: int
    block: int
    tx_hash: str


@frozen
class TxReceipt:
    ok: bool
    block: int
    block_hash: bytes
    paid: int
    """In wei: gas used, at the price that was taken."""
    events: tuple[Event, ...]


@frozen
class Signed:
    """A transaction's bytes and its hash, both known before it is sent."""

    raw: bytes
    hash: str


class _Guarded(AsyncJSONBaseProvider):
    """JSON-RPC over our own guarded connections instead of a second HTTP library."""

    def __init__(self, outgoing: Outgoing) -> None:
        super().__init__()
        self._outgoing = outgoing

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        body = self.encode_rpc_request(method, params)
        try:
            answer = await self._outgoing.post(body, "application/json")
        except Http1Error as fault:
            raise NodeDown(str(fault)) from None
        if answer.status != 200:
            raise NodeDown(f"the node answered with HTTP status {answer.status}")
        try:
            return self.decode_rpc_response(answer.body)
        except (ValueError, TypeError):
            raise NodeDown("the node's answer is no JSON") from None


class Wallet:
    """The key that pays and signs. Its address is the writer; the key itself is never shown."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError when the bytes are no key."""
        self._account: LocalAccount = Account.from_key(key)
        self.address: str = self._account.address

    @classmethod
    def from_keystore(cls, keystore: str, password: str) -> "Wallet":
        """A version 3 keystore. Takes a second. Raises ValueError: wrong password, no keystore."""
        try:
            return cls(bytes(Account.decrypt(keystore, password)))
        except (TypeError, KeyError, NotImplementedError) as error:
            raise ValueError(f"no version 3 keystore: {error}") from None

    def sign(self, transaction: dict[str, Any]) -> Signed:
        """The same transaction always gives the same bytes (RFC 6979)."""
        signed = self._account.sign_transaction(transaction)
        return Signed(bytes(signed.raw_transaction), "0x" + bytes(signed.hash).hex())


def log_id(origin: str) -> bytes:
    """The log's name on chain."""
    return bytes(Web3.keccak(text=origin))


def address_of(sender: str, nonce: int) -> str:
    """Where the contract lies that a transaction makes."""
    return str(get_create_address(Web3.to_checksum_address(sender), Nonce(nonce)))


class Node:
    """One JSON-RPC endpoint. Every method raises `NodeDown`."""

    def __init__(self, outgoing: Outgoing, contract: str) -> None:
        self._w3: AsyncWeb3[Any] = AsyncWeb3(_Guarded(outgoing))
        # Blocks from before Flare's Fortuna fork have 80 bytes of extra data.
        self._w3.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
        self._outgoing = outgoing
        self.contract = Web3.to_checksum_address(contract)
        self._audit = self._w3.eth.contract(address=self.contract, abi=artifact().abi)

    def close(self) -> None:
        self._outgoing.close()

    async def chain_id(self) -> int:
        return int(await self._asked(self._w3.eth.chain_id))

    async def code(self, address: str) -> bytes:
        return bytes(await self._asked(self._w3.eth.get_code(Web3.to_checksum_address(address))))

    async def nonce(self, address: str) -> int:
        """Transactions of the address on chain; never `pending`, which differs by node."""
        return int(
            await self._asked(
                self._w3.eth.get_transaction_count(Web3.to_checksum_address(address), "latest")
            )
        )

    async def balance(self, address: str) -> int:
        return int(await self._asked(self._w3.eth.get_balance(Web3.to_checksum_address(address))))

    async def market(self) -> Market:
        block = await self._asked(self._w3.eth.get_block("latest"))
        return Market(block["baseFeePerGas"], int(await self._asked(self._w3.eth.max_priority_fee)))

    async def finalized(self) -> int:
        """The number of the last block that no rule of the chain takes back."""
        return int((await self._asked(self._w3.eth.get_block("finalized")))["number"])

    async def block_time(self, number: int) -> int:
        """Seconds since 1970, by the chain."""
        return int((await self._asked(self._w3.eth.get_block(number)))["timestamp"])

    async def head(self, writer: str, log: bytes) -> ChainHead:
        call = self._audit.functions.head(Web3.to_checksum_address(writer), log).call()
        size, seq, block, root = await self._asked(call)
        return ChainHead(size, seq, block, bytes(root))

    async def events(self, writer: str, log: bytes, first: int, last: int) -> list[Event]:
        """The writer's events in a range of at most `LOG_WINDOW` blocks."""
        found = await self._asked(
            self._audit.events.Anchored().get_logs(
                from_block=first,
                to_block=last,
                argument_filters={"writer": Web3.to_checksum_address(writer), "logId": log},
            )
        )
        return [_event(one) for one in found]

    async def history(self, writer: str, log: bytes) -> list[Event]:
        """Every anchor of the log, newest first, by going from event to event."""
        block = (await self.head(writer, log)).block
        found: list[Event] = []
        while block:
            events = await self.events(writer, log, block, block)
            if not events:
                raise NodeDown(f"the node shows no event in block {block}")
            events.sort(key=lambda event: -event.seq)
            found += events
            block = events[-1].prev_block if events[-1].prev_block != block else 0
        return found

    def call_data(self, log: bytes, size: int, root: bytes) -> str:
        return str(self._audit.encode_abi("anchor", args=[log, size, root]))

    async def estimate(self, transaction: dict[str, Any]) -> int:
        """Gas. Raises `Reverted` when the contract would refuse."""
        question = self._w3.eth.estimate_gas(transaction)  # type: ignore[arg-type]
        try:
            return int(await self._asked(question))
        except ContractLogicError as error:
            raise Reverted(str(error)) from None

    async def send(self, raw: bytes) -> None:
        """Offer signed bytes; the same bytes twice do no harm. Raises `SendRefused`."""
        try:
            await self._asked(self._w3.eth.send_raw_transaction(raw), SendRefused)
        except ContractLogicError as error:
            raise SendRefused(str(error)) from None

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        try:
            raw = await self._w3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]
        except TransactionNotFound:
            return None
        except (Web3Exception, ValueError, KeyError) as error:
            raise NodeDown(f"the node's receipt cannot be read: {error}") from None
        logs = [log for log in raw["logs"] if log["address"] == self.contract]
        return TxReceipt(
            ok=raw["status"] == 1,
            block=raw["blockNumber"],
            block_hash=bytes(raw["blockHash"]),
            paid=raw["gasUsed"] * raw["effectiveGasPrice"],
            events=tuple(_event(self._audit.events.Anchored().process_log(log)) for log in logs),
        )

    async def _asked(self, question: Any, refusal: type[Exception] = NodeDown) -> Any:
        try:
            return await question
        except (ContractLogicError, TransactionNotFound):
            raise
        except Web3RPCError as error:
            raise refusal(f"the node says: {_text(error)}") from None
        except (Web3Exception, ValueError, KeyError, TypeError) as error:
            raise NodeDown(f"the node gave no usable answer: {error}") from None


def _text(error: Web3RPCError) -> str:
    response = error.rpc_response
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        return str(response["error"].get("message", error))
    return str(error)


def _event(log: Any) -> Event:
    told = log["args"]
    return Event(
        size=told["size"],
        root=bytes(told["root"]),
        seq=told["seq"],
        prev_block=told["prevBlock"],
        block=log["blockNumber"],
        tx_hash="0x" + bytes(log["transactionHash"]).hex(),
    )


def transaction(
    *, chain_id: int, nonce: int, to: str | None, data: str, gas: int, fees: Fees
) -> dict[str, Any]:
    """An EIP-1559 transaction; without `to` it makes a contract."""
    return {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "value": 0,
        "data": data,
        "gas": gas,
        "maxFeePerGas": fees.max_fee,
        "maxPriorityFeePerGas": fees.tip,
        **({} if to is None else {"to": to}),
    }
