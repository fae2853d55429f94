"""Anchors a head on Flare: sign, keep, send, confirm, one transaction in flight.

Nothing is decided by what a node says of a transaction that was offered to it; only by receipts,
by the nonces that the chain has used, and by the head that the contract holds. Each step starts
from the database alone, so that after a crash the next one is the same.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio.to_thread
import structlog

from gateway.anchors import rows
from gateway.anchors.chain import (
    ChainHead,
    Event,
    Node,
    NodeDown,
    Reverted,
    SendRefused,
    TxReceipt,
    Wallet,
    log_id,
    transaction,
)
from gateway.anchors.contract import artifact
from gateway.anchors.fees import (
    ANCHOR_GAS,
    WEI_PER_FLR,
    Fees,
    Market,
    Purse,
    bumped,
    first_fees,
    gas_limit,
    needed,
    spacing,
)
from gateway.anchors.outbox import Outbox
from gateway.anchors.rows import OtherWriter, Sent
from gateway.anchors.values import (
    Anchor,
    AnchorFault,
    Condition,
    Final,
    Head,
    Known,
    Progress,
    Receipt,
    Waiting,
)
from gateway.clock import parse, rfc3339
from gateway.frozen import frozen

Answer = TypeVar("Answer")

LEAST_SPACING = 10.0
STUCK_SECONDS = 30.0
POLL_SECONDS = 2.0
MONEY_SECONDS = 60.0
"""How often an empty purse or account is looked at again."""
MOST_BACKOFF = 60.0
SKEW_SECONDS = 120.0

_NOTHING = ChainHead(0, 0, 0, b"")
_SENT = Waiting(Condition.OK, "sent", POLL_SECONDS)
_REVERTED = Waiting(Condition.REFUSED, "the contract reverted it; signed anew", POLL_SECONDS)
_NONCE_TAKEN = Waiting(
    Condition.NONCE_TAKEN,
    "another program sends with this key; give it one of its own. Signed anew",
    POLL_SECONDS,
)

_log = structlog.get_logger(__name__)


@frozen
class Terms:
    """What the operators set."""

    chain_id: int
    contract: str
    daily_cap: int
    """Wei."""
    urgent_seconds: float


class Flare:
    """The chain as an anchor. `advance` brings one head one step further."""

    def __init__(
        self,
        nodes: Sequence[Node],
        wallet: Wallet,
        terms: Terms,
        outbox: Outbox,
        root_at: Callable[[int, int], Awaitable[bytes | None]],
    ) -> None:
        """``root_at(log, size)`` tells our own root at a size that somebody anchored."""
        self._nodes = list(nodes)
        self._wallet = wallet
        self._terms = terms
        self._outbox = outbox
        self._root_at = root_at
        self._good: set[Node] = set()
        self._failures = 0

    def close(self) -> None:
        for node in self._nodes:
            node.close()

    async def advance(self, anchor: Anchor) -> Progress:
        """The next step. What it waits for is in the answer; nothing of the node is raised."""

        async def step(node: Node) -> Progress:
            sent = await self._outbox.transactions(anchor)
            return await (self._follow(node, anchor, sent) if sent else self._sign(node, anchor))

        return await self._asked(step)

    async def known(self, origin: str) -> Sequence[Known] | Waiting:
        """The heads that the contract holds for our key, for those before it and the successor."""
        others = await self._outbox.read(
            lambda c: rows.other_writers(c, self._outbox.backend, origin)
        )

        async def look(node: Node) -> Sequence[Known]:
            own = await node.head(self._wallet.address, log_id(origin))
            heads = [own, *[await self._head_of(node, origin, one) for one in others]]
            return [Known(head.size, head.root) for head in heads if head.size]

        return await self._asked(look)

    async def _head_of(self, node: Node, origin: str, other: OtherWriter) -> ChainHead | Event:
        """The last head under another's address that counts."""
        head = await node.head(other.address, log_id(origin))
        if other.until is None or head.block <= other.until:
            return head
        _log.warning("somebody anchors with a key that was given up", writer=other.address)
        events = await node.history(other.address, log_id(origin))
        return next((event for event in events if event.block <= other.until), _NOTHING)

    async def _asked(self, fn: Callable[[Node], Awaitable[Answer]]) -> Answer | Waiting:
        try:
            progress = await fn(await self._node())
        except NodeDown as fault:
            # The next attempt goes to the other node, when there is one.
            self._nodes.append(self._nodes.pop(0))
            self._good.clear()
            self._failures += 1
            pause = min(MOST_BACKOFF, 2.0 ** (self._failures - 1))
            return Waiting(Condition.UNREACHABLE, str(fault), pause)
        except AnchorFault as fault:
            return Waiting(fault.condition, str(fault), MOST_BACKOFF, fault.contradicts)
        self._failures = 0
        return progress

    async def _node(self) -> Node:
        """The node to ask. Raises `AnchorFault` where it is not the chain that we anchor on."""
        node = self._nodes[0]
        if node not in self._good:
            chain = await node.chain_id()
            if chain != self._terms.chain_id:
                raise AnchorFault(
                    Condition.WRONG_CHAIN,
                    f"the node is of chain {chain}, and GATEWAY_FLARE_CHAIN_ID is "
                    f"{self._terms.chain_id}: correct one of them",
                )
            code = await node.code(self._terms.contract)
            if code != artifact().deployed:
                what = "no contract" if not code else "another contract than ours"
                raise AnchorFault(
                    Condition.FOREIGN_CODE,
                    f"there is {what} at {self._terms.contract}: correct GATEWAY_FLARE_CONTRACT, "
                    "or deploy with `gateway anchor deploy`",
                )
            self._good.add(node)
        return node

    # --- nothing has left yet ---

    async def _sign(self, node: Node, anchor: Anchor, *, paced: bool = True) -> Progress:
        """Sign with the next nonce, keep, send; not before the money's pace allows."""
        on_chain = await node.head(self._wallet.address, log_id(anchor.head.origin))
        if await self._is_there(on_chain, anchor.head):
            return Final(await self._seen(node, anchor, on_chain))
        market = await node.market()
        purse = await self._purse()
        pause = await self._pause(purse, market) if paced else None
        if pause is not None:
            return pause
        nonce = await node.nonce(self._wallet.address)
        return await self._sign_with(node, anchor, nonce, market, purse)

    async def _sign_with(
        self, node: Node, anchor: Anchor, nonce: int, market: Market, purse: Purse
    ) -> Progress:
        gas = await self._gas(node, anchor.head)
        fees = first_fees(market, gas, purse.left)
        if fees is None:
            return self._capped(market)
        fees = self._within(fees, market, gas, await node.balance(self._wallet.address))
        await self._keep_and_send(node, anchor, nonce, gas, fees)
        return _SENT

    async def _keep_and_send(
        self, node: Node, anchor: Anchor, nonce: int, gas: int, fees: Fees
    ) -> None:
        head = anchor.head
        unsigned = transaction(
            chain_id=self._terms.chain_id,
            nonce=nonce,
            to=node.contract,
            data=node.call_data(log_id(head.origin), head.size, head.root),
            gas=gas,
            fees=fees,
        )
        signed = await anyio.to_thread.run_sync(self._wallet.sign, unsigned)
        sent = Sent(signed.hash, nonce, signed.raw, gas, fees, self._outbox.now)
        await self._outbox.signed(anchor, sent)
        await self._offer(node, [sent])

    async def _offer(self, node: Node, sent: Sequence[Sent]) -> None:
        """The same bytes as often as one likes; every node that is set up may take them."""
        for one in sent:
            try:
                await node.send(one.raw)
            except SendRefused as told:
                # "already known", "nonce too low": receipts and the head decide, not this text.
                _log.debug("a node did not take a transaction", tx=one.hash, why=str(told))

    async def _gas(self, node: Node, head: Head) -> int:
        call = {
            "from": self._wallet.address,
            "to": node.contract,
            "data": node.call_data(log_id(head.origin), head.size, head.root),
        }
        try:
            return gas_limit(await node.estimate(call))
        except Reverted as why:
            raise AnchorFault(
                Condition.FORK, f"the contract refuses the head at {head.size}: {why}"
            ) from None

    # --- something may have left ---

    async def _follow(self, node: Node, anchor: Anchor, sent: Sequence[Sent]) -> Progress:
        """Find out what became of what was signed; `sent` is newest first."""
        used = await node.nonce(self._wallet.address)  # before the receipts, or one could slip in
        for one in sent:
            receipt = await node.receipt(one.hash)
            if receipt is not None:
                return await self._mined(node, anchor, sent, one, receipt)
        latest = sent[0]
        if used > latest.nonce:
            return await self._once_more(node, anchor, _NONCE_TAKEN, paced=False)
        alive = [one for one in sent if one.nonce == latest.nonce]
        await self._offer(node, alive)
        age = self._seconds_since(latest.created_at)
        if age < STUCK_SECONDS:
            return Waiting(Condition.OK, "sent, waiting for a block", POLL_SECONDS)
        return await self._bump(node, anchor, latest)

    async def _mined(
        self, node: Node, anchor: Anchor, sent: Sequence[Sent], one: Sent, receipt: TxReceipt
    ) -> Progress:
        if not receipt.ok:
            await self._outbox.paid(one.hash, receipt.paid)
            if one.nonce < sent[0].nonce:
                return Waiting(Condition.OK, "waiting for a later attempt", POLL_SECONDS)
            return await self._once_more(node, anchor, _REVERTED, paced=True)
        if receipt.block > await node.finalized():
            return Waiting(Condition.OK, f"in block {receipt.block}, not final yet", POLL_SECONDS)
        if not await self._others_agree(node, one.hash, receipt):
            detail = "the second node does not show it yet"
            return Waiting(Condition.OK, detail, POLL_SECONDS)
        head = anchor.head
        if not receipt.events:
            # Taken without an event: the contract had this very head already.
            on_chain = await node.head(self._wallet.address, log_id(head.origin))
            if await self._is_there(on_chain, head):
                await self._outbox.paid(one.hash, receipt.paid)
                return Final(await self._seen(node, anchor, on_chain))
        if not any((event.size, event.root) == (head.size, head.root) for event in receipt.events):
            raise AnchorFault(Condition.FORK, f"{one.hash} anchored something else than was signed")
        await self._outbox.paid(one.hash, receipt.paid)
        return Final(await self._receipt(node, receipt.block, one.hash, one.raw))

    async def _others_agree(self, node: Node, tx_hash: str, receipt: TxReceipt) -> bool:
        """A second node that answers must show the same block; one that is down has no veto."""
        for other in self._nodes:
            if other is node:
                continue
            try:
                theirs = await other.receipt(tx_hash)
            except NodeDown as fault:
                _log.warning("the second node cannot confirm an anchor", why=str(fault))
                continue
            if theirs is None or theirs.block_hash != receipt.block_hash:
                return False
        return True

    async def _once_more(
        self, node: Node, anchor: Anchor, why: Waiting, *, paced: bool
    ) -> Progress:
        """Sign anew, unless the contract has the head all the same."""
        progress = await self._sign(node, anchor, paced=paced)
        return why if progress is _SENT else progress

    async def _bump(self, node: Node, anchor: Anchor, latest: Sent) -> Progress:
        """Replace it by the same call at a higher price, as far as the day's money goes."""
        market = await node.market()
        purse = await self._purse()
        fees = bumped(latest.fees, market, latest.gas, purse.left)
        if fees is None or fees.max_fee * latest.gas > await node.balance(self._wallet.address):
            detail = f"waiting at {latest.fees.max_fee} wei; more does not fit into the day's money"
            return Waiting(Condition.STUCK, detail, POLL_SECONDS)
        await self._keep_and_send(node, anchor, latest.nonce, latest.gas, fees)
        return Waiting(Condition.STUCK, f"offered {fees.max_fee} wei", POLL_SECONDS)

    # --- what the chain holds ---

    async def _is_there(self, on_chain: ChainHead, head: Head) -> bool:
        """True when the contract has this head. Raises `AnchorFault` for another history."""
        if on_chain.size == 0:
            return False
        if on_chain.size > head.size:
            raise AnchorFault(
                Condition.FORK,
                f"the chain holds {on_chain.size} records of this log and the database {head.size}:"
                " it was put back from a copy, or another gateway writes under this key",
                contradicts=True,
            )
        ours = head.root
        if on_chain.size < head.size:
            known = await self._root_at(head.log, on_chain.size)
            ours = known if known is not None else on_chain.root
        if ours != on_chain.root:
            raise AnchorFault(
                Condition.FORK,
                f"the chain holds another root for the first {on_chain.size} records: the log was"
                " changed, or another gateway writes under this key",
                contradicts=True,
            )
        return on_chain.size == head.size

    async def _seen(self, node: Node, anchor: Anchor, on_chain: ChainHead) -> Receipt:
        """The receipt of a head that the contract has, however it came there."""
        events = await node.events(
            self._wallet.address, log_id(anchor.head.origin), on_chain.block, on_chain.block
        )
        tx_hash = next((one.tx_hash for one in events if one.size == on_chain.size), None)
        sent = await self._outbox.transactions(anchor)
        raw = next((one.raw for one in sent if one.hash == tx_hash), b"")
        return await self._receipt(node, on_chain.block, tx_hash, raw)

    async def _receipt(self, node: Node, block: int, tx_hash: str | None, raw: bytes) -> Receipt:
        seconds = await node.block_time(block)
        if abs(seconds - parse(self._outbox.now).timestamp()) > SKEW_SECONDS:
            _log.warning("this machine's clock and the chain's differ", block=block, chain=seconds)
        return Receipt(at=rfc3339(seconds), tx_hash=tx_hash, block=block, proof=raw)

    # --- money ---

    async def _purse(self) -> Purse:
        now = self._outbox.now
        spent = await self._outbox.read(lambda c: rows.spent(c, self._outbox.backend, now[:10]))
        of_day = parse(now)
        left = 86_400 - (of_day.hour * 3600 + of_day.minute * 60 + of_day.second)
        return Purse(self._terms.daily_cap, spent, max(1, left))

    async def _pause(self, purse: Purse, market: Market) -> Waiting | None:
        """How long the money asks to wait before another anchor is signed; None: not at all."""
        apart = spacing(purse, market, ANCHOR_GAS, LEAST_SPACING)
        if apart == float("inf"):
            return self._capped(market)
        last = await self._outbox.read(lambda c: rows.last_signed_at(c, self._outbox.backend))
        left = 0.0 if last is None else apart - self._seconds_since(last)
        if left <= 0:
            return None
        if apart <= max(LEAST_SPACING, self._terms.urgent_seconds):
            return Waiting(Condition.OK, "", left)
        detail = f"one anchor in {apart:.0f} s, so that the day's money lasts; {self._wish(market)}"
        return Waiting(Condition.STRETCHED, detail, min(left, MONEY_SECONDS))

    def _capped(self, market: Market) -> Waiting:
        detail = f"the day's money is spent; {self._wish(market)}"
        return Waiting(Condition.CAPPED, detail, MONEY_SECONDS)

    def _wish(self, market: Market) -> str:
        wei = needed(market, ANCHOR_GAS, self._terms.urgent_seconds)
        flr = -(-wei // (WEI_PER_FLR // 100)) / 100
        return f"GATEWAY_FLARE_DAILY_CAP would have to be {flr:.2f} at {market.base_fee} wei of gas"

    def _within(self, fees: Fees, market: Market, gas: int, balance: int) -> Fees:
        """The fees as far as the account can pay them. Raises `AnchorFault`."""
        most = balance // gas
        if most < market.base_fee + fees.tip:
            raise AnchorFault(Condition.UNFUNDED, self._unfunded(f"it holds {balance} wei"))
        return Fees(min(fees.max_fee, most), fees.tip)

    def _unfunded(self, why: str) -> str:
        return f"send FLR to {self._wallet.address}: {why}"

    def _seconds_since(self, ts: str) -> float:
        return (parse(self._outbox.now) - parse(ts)).total_seconds()
