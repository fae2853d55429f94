"""Anchoring on a local chain: every way in which it can go wrong ends with one event for a head."""

import json

import pytest
from eth_account import Account

from gateway.anchors import rows
from gateway.anchors.chain import Node, TxReceipt, Wallet, log_id, transaction
from gateway.anchors.fees import ANCHOR_GAS, GWEI, WEI_PER_FLR, Fees
from gateway.anchors.flare import Flare
from gateway.anchors.outbox import LEASE_SECONDS, Outbox
from gateway.anchors.values import Anchor, Condition, Final, Progress, Waiting
from gateway.clock import Clock
from gateway.egress.outgoing import Outgoing
from gateway.store.leases import LeaseLost
from tests.anchors.local_chain import CHAIN_ID, KEY, LOOPBACK
from tests.anchors.world import (
    BACKEND,
    CONTRACT,
    ORIGIN,
    WALLET,
    Died,
    Mortal,
    MortalNode,
    MortalOutbox,
    World,
    a_root,
)

pytestmark = pytest.mark.anyio

STEPS = (
    "signed, not kept",
    "kept, not sent",
    "sent, not noticed",
    "mined, not recorded",
    "recorded",
)
NOBODY = "http://127.0.0.1:9"
"""A port at which nothing listens."""


def waits(progress: Progress) -> Condition:
    assert isinstance(progress, Waiting)
    return progress.condition


async def finished(
    world: World, flare: Flare, anchor: Anchor, outbox: Outbox | None = None
) -> Final:
    for _ in range(8):
        progress = await flare.advance(anchor)
        if isinstance(progress, Final):
            await (outbox or world.box).final(anchor, progress.receipt)
            return progress
        world.chain.settle()
    raise AssertionError(f"it came to no end: {progress}")


async def test_a_head_is_anchored_once_and_its_receipt_shows_it(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    before = await world.nonce()
    done = await finished(world, flare, anchor)
    assert await world.history() == [(10, a_root(10))]
    assert await world.nonce() == before + 1
    receipt = done.receipt
    assert receipt.tx_hash is not None
    told = await world.node().receipt(receipt.tx_hash)
    assert told is not None
    assert told.block == receipt.block
    assert receipt.at.endswith("Z")
    # The signed bytes are kept as evidence: whoever has them has signer, head and hash.
    assert a_root(10).hex() in receipt.proof.hex()


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_leaves_one_event_and_no_gap(world: World, step: str) -> None:
    await crashing(world, Mortal(step), [10, 20])
    assert await world.history() == [(10, a_root(10)), (20, a_root(20))]


async def test_crashes_by_chance_leave_one_event_for_each_head_and_no_gap(world: World) -> None:
    mortal = Mortal(chance=0.25, seed=7)
    before = await world.nonce()
    sizes = list(range(1, 13))
    await crashing(world, mortal, sizes)
    assert await world.history() == [(size, a_root(size)) for size in sizes]
    assert await world.nonce() == before + len(sizes)
    assert set(mortal.deaths) == set(STEPS)


async def crashing(world: World, mortal: Mortal, sizes: list[int]) -> None:
    """Anchor each size; after a death everything but the database is made anew."""
    for size in sizes:
        await world.later(60)
        await world.queued(size)
        await world.box.let_go()
        while await lives(world, mortal):
            pass


async def lives(world: World, mortal: Mortal) -> bool:
    """One process: it ends with the anchor (False) or before (True)."""
    world.time.ahead += LEASE_SECONDS
    outbox = MortalOutbox(world.writer, world.reader, Clock(world.time), BACKEND)
    node = MortalNode(Outgoing(world.chain.url, private_allowed=LOOPBACK), CONTRACT)
    outbox.mortal = node.mortal = mortal
    world.nodes.append(node)
    flare = await world.flare(node, outbox=outbox)
    anchor = await outbox.read(lambda c: rows.unfinished(c, BACKEND))
    if anchor is None:
        return False  # the one before it died after its last write
    try:
        await finished(world, flare, anchor, outbox)
    except Died:
        return True
    await outbox.let_go()
    return False


async def test_a_chain_with_another_id_gets_no_transaction(world: World) -> None:
    flare = await world.flare(chain_id=14)
    progress = await flare.advance(await world.queued(10))
    assert waits(progress) is Condition.WRONG_CHAIN
    assert await world.history() == []


async def test_another_contract_at_the_address_gets_no_transaction(world: World) -> None:
    world.chain.ask("anvil_setCode", CONTRACT, "0x6001600101")
    progress = await (await world.flare()).advance(await world.queued(10))
    assert waits(progress) is Condition.FOREIGN_CODE
    assert await world.outbox().transactions(await world.queued(10)) == []


async def test_an_address_without_contract_is_told_apart(world: World) -> None:
    world.chain.ask("anvil_setCode", CONTRACT, "0x")
    progress = await (await world.flare()).advance(await world.queued(10))
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.FOREIGN_CODE
    assert "no contract" in progress.detail


async def test_a_node_that_is_down_is_asked_again_ever_more_rarely(world: World) -> None:
    flare, anchor = await world.flare(world.node(NOBODY)), await world.queued(10)
    pauses = []
    for _ in range(8):
        progress = await flare.advance(anchor)
        assert isinstance(progress, Waiting)
        assert progress.condition is Condition.UNREACHABLE
        pauses.append(progress.seconds)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_the_second_node_takes_over(world: World) -> None:
    flare, anchor = await world.flare(world.node(NOBODY), world.node()), await world.queued(10)
    assert waits(await flare.advance(anchor)) is Condition.UNREACHABLE
    await finished(world, flare, anchor)
    assert await world.history() == [(10, a_root(10))]


async def test_a_second_node_that_does_not_show_the_block_holds_the_anchor_up(world: World) -> None:
    class Blind(Node):
        async def receipt(self, tx_hash: str) -> TxReceipt | None:
            return None

    blind = Blind(Outgoing(world.chain.url, private_allowed=LOOPBACK), CONTRACT)
    world.nodes.append(blind)
    flare, anchor = await world.flare(world.node(), blind), await world.queued(10)
    await flare.advance(anchor)
    world.chain.settle()
    progress = await flare.advance(anchor)
    assert isinstance(progress, Waiting)
    assert "second node" in progress.detail


async def test_an_empty_account_is_told_and_nothing_is_signed(world: World) -> None:
    world.chain.ask("anvil_setBalance", WALLET.address, "0x0")
    flare, anchor = await world.flare(), await world.queued(10)
    progress = await flare.advance(anchor)
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.UNFUNDED
    assert WALLET.address in progress.detail
    assert await world.box.transactions(anchor) == []
    world.chain.ask("anvil_setBalance", WALLET.address, hex(WEI_PER_FLR))
    await finished(world, flare, anchor)


async def test_an_account_that_holds_little_still_pays_what_is_asked(world: World) -> None:
    """The worst case at signing is four times the price; the account need not hold that."""
    market = await world.node().market()
    enough = 90_000 * (market.base_fee + market.tip + 1)
    world.chain.ask("anvil_setBalance", WALLET.address, hex(enough))
    await finished(world, await world.flare(), await world.queued(10))


async def test_a_days_money_that_is_spent_waits_and_names_what_is_needed(world: World) -> None:
    flare, anchor = await world.flare(cap=1000), await world.queued(10)
    progress = await flare.advance(anchor)
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.CAPPED
    assert "GATEWAY_FLARE_DAILY_CAP would have to be" in progress.detail


async def test_money_that_gets_short_stretches_the_time_between_anchors(world: World) -> None:
    await finished(world, await world.flare(), await world.queued(10))
    market = await world.node().market()
    cost = ANCHOR_GAS * (market.base_fee + market.tip)
    flare = await world.flare(cap=50 * cost)
    anchor = await world.queued(20)
    progress = await flare.advance(anchor)
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.STRETCHED
    await world.later(3600)
    await finished(world, flare, anchor)
    assert len(await world.history()) == 2


async def test_what_was_paid_is_counted_by_receipts(world: World) -> None:
    flare = await world.flare()
    done = await finished(world, flare, await world.queued(10))
    assert done.receipt.tx_hash is not None
    receipt = await world.node().receipt(done.receipt.tx_hash)
    assert receipt is not None
    today = world.box.now[:10]
    spent = await world.box.read(lambda c: rows.spent(c, BACKEND, today))
    assert spent == receipt.paid > 0


async def test_a_transaction_that_was_dropped_is_sent_again_as_it_was(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    [tx] = world.chain.pending()
    world.chain.ask("anvil_dropTransaction", tx)
    assert world.chain.pending() == []
    await flare.advance(anchor)
    assert world.chain.pending() == [tx]
    await finished(world, flare, anchor)


async def test_a_stuck_transaction_is_replaced_at_a_higher_price(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    await world.later(31)
    assert waits(await flare.advance(anchor)) is Condition.STUCK
    newer, older = await world.box.transactions(anchor)
    assert newer.nonce == older.nonce
    assert newer.fees.max_fee * 10 > older.fees.max_fee * 11
    assert newer.fees.tip * 10 > older.fees.tip * 11
    assert world.chain.pending() == [newer.hash]
    await finished(world, flare, anchor)
    assert await world.history() == [(10, a_root(10))]


async def test_the_older_of_two_that_were_sent_may_be_the_one_that_is_mined(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    [older] = await world.box.transactions(anchor)
    world.chain.ask("anvil_dropTransaction", older.hash)
    await world.later(31)
    await flare.advance(anchor)
    newer = (await world.box.transactions(anchor))[0]
    world.chain.ask("anvil_dropTransaction", newer.hash)
    await world.node().send(older.raw)
    world.chain.settle()
    done = await flare.advance(anchor)
    assert isinstance(done, Final)
    assert done.receipt.tx_hash == older.hash


async def test_a_stuck_transaction_waits_where_more_does_not_fit_into_the_cap(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    [sent] = await world.box.transactions(anchor)
    poor = await world.flare(cap=sent.fees.max_fee * sent.gas, outbox=world.box)
    await world.later(31)
    assert waits(await poor.advance(anchor)) is Condition.STUCK
    assert await world.box.transactions(anchor) == [sent]


async def test_a_nonce_that_another_program_took_is_told_and_the_head_signed_anew(
    world: World,
) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    [ours] = await world.box.transactions(anchor)
    world.chain.ask("anvil_dropTransaction", ours.hash)
    await transferred(world, ours.nonce)
    world.chain.mine()
    assert waits(await flare.advance(anchor)) is Condition.NONCE_TAKEN
    newer = (await world.box.transactions(anchor))[0]
    assert newer.nonce == ours.nonce + 1
    await finished(world, flare, anchor)
    assert await world.history() == [(10, a_root(10))]


async def transferred(world: World, nonce: int) -> None:
    unsigned = transaction(
        chain_id=CHAIN_ID,
        nonce=nonce,
        to="0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        data="0x",
        gas=21_000,
        fees=Fees(1000 * GWEI, GWEI),
    )
    await world.node().send(WALLET.sign(unsigned).raw)


async def test_a_head_that_the_chain_has_already_costs_nothing_more(world: World) -> None:
    """As after a restore of the database: the event is found and taken as ours."""
    await anchored_by_hand(world, 10, a_root(10))
    before = await world.nonce()
    done = await (await world.flare()).advance(await world.queued(10))
    assert isinstance(done, Final)
    assert done.receipt.tx_hash is not None
    assert await world.nonce() == before


async def anchored_by_hand(world: World, size: int, root: bytes) -> None:
    node = world.node()
    unsigned = transaction(
        chain_id=CHAIN_ID,
        nonce=await node.nonce(WALLET.address),
        to=CONTRACT,
        data=node.call_data(log_id(ORIGIN), size, root),
        gas=200_000,
        fees=Fees(1000 * GWEI, GWEI),
    )
    await node.send(WALLET.sign(unsigned).raw)
    world.chain.mine()


@pytest.mark.parametrize(("size", "root"), [(10, b"\1" * 32), (5, b"\1" * 32), (50, a_root(50))])
async def test_another_history_on_the_chain_stops_the_anchoring(
    world: World, size: int, root: bytes
) -> None:
    await anchored_by_hand(world, size, root)
    flare, anchor = await world.flare(), await world.queued(10)
    for _ in range(2):
        assert waits(await flare.advance(anchor)) is Condition.FORK
    assert await world.box.transactions(anchor) == []


async def test_a_head_that_forks_while_ours_is_on_its_way_stops_the_anchoring(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    [ours] = await world.box.transactions(anchor)
    world.chain.ask("anvil_dropTransaction", ours.hash)
    await anchored_by_hand(world, 10, b"\1" * 32)
    assert waits(await flare.advance(anchor)) is Condition.FORK


async def test_a_block_that_is_taken_back_is_followed_by_the_same_transaction(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    await flare.advance(anchor)
    [sent] = await world.box.transactions(anchor)
    world.chain.mine()
    assert waits(await flare.advance(anchor)) is Condition.OK  # mined, not final
    world.chain.ask("anvil_reorg", 1, [])
    assert await world.node().receipt(sent.hash) is None
    await flare.advance(anchor)
    await finished(world, flare, anchor)
    assert [tx.hash for tx in await world.box.transactions(anchor)] == [sent.hash]
    assert await world.history() == [(10, a_root(10))]


async def test_who_lost_the_lease_sends_nothing(world: World) -> None:
    flare, anchor = await world.flare(), await world.queued(10)
    world.time.ahead += LEASE_SECONDS
    other = world.outbox()
    assert await other.hold()
    with pytest.raises(LeaseLost):
        await flare.advance(anchor)
    assert not await world.box.hold()
    assert await world.history() == []


async def test_a_key_file_opens_with_its_password_only() -> None:
    keystore = Account.encrypt(KEY, "a password", kdf="pbkdf2", iterations=1)
    wallet = Wallet.from_keystore(json.dumps(keystore), "a password")
    assert wallet.address == WALLET.address
    assert KEY.hex() not in repr(wallet)
    with pytest.raises(ValueError, match="MAC"):
        Wallet.from_keystore(json.dumps(keystore), "another")
