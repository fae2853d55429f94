"""Puts the contract on a chain, and looks that it is what we ship. Importing this imports web3."""

import asyncio
from collections.abc import Callable
from time import monotonic

import anyio.to_thread

from gateway.anchors.chain import Node, NodeDown, Reverted, SendRefused, address_of, transaction
from gateway.anchors.contract import artifact
from gateway.anchors.fees import WEI_PER_FLR, first_fees, gas_limit
from gateway.anchors.flare_setup import open_nodes, open_wallet
from gateway.anchors.place import AnchorUnusable
from gateway.frozen import frozen
from gateway.settings import Settings

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 180.0
_NOWHERE = "0x" + "00" * 20


@frozen
class Deployed:
    contract: str
    chain_id: int
    tx_hash: str
    block: int
    paid_wei: int


async def deploy(settings: Settings, sent: Callable[[str], None]) -> Deployed:
    """Deploy and wait for the block; ``sent`` is told the transaction as soon as it has left.

    Raises `AnchorUnusable`.
    """
    if settings.flare_rpc_url is None or settings.flare_chain_id is None:
        raise AnchorUnusable("set GATEWAY_FLARE_RPC_URL and GATEWAY_FLARE_CHAIN_ID")
    nodes = open_nodes(settings, _NOWHERE)
    try:
        return await _deploy(settings, settings.flare_chain_id, nodes[0], sent)
    except (NodeDown, SendRefused, Reverted) as fault:
        raise AnchorUnusable(str(fault)) from None
    finally:
        for node in nodes:
            node.close()


async def _deploy(
    settings: Settings, chain_id: int, node: Node, sent: Callable[[str], None]
) -> Deployed:
    found = await node.chain_id()
    if found != chain_id:
        raise AnchorUnusable(f"the node is of chain {found}, not {chain_id}: nothing was sent")
    wallet = await anyio.to_thread.run_sync(open_wallet, settings)
    data = "0x" + artifact().bytecode.hex()
    gas = gas_limit(await node.estimate({"from": wallet.address, "data": data}))
    money = min(int(settings.flare_daily_cap * WEI_PER_FLR), await node.balance(wallet.address))
    fees = first_fees(await node.market(), gas, money)
    if fees is None:
        raise AnchorUnusable(
            f"{wallet.address} holds too little, or GATEWAY_FLARE_DAILY_CAP is too low: "
            f"{gas} gas have to be paid for"
        )
    nonce = await node.nonce(wallet.address)
    signed = wallet.sign(
        transaction(chain_id=chain_id, nonce=nonce, to=None, data=data, gas=gas, fees=fees)
    )
    await node.send(signed.raw)
    sent(signed.hash)
    return await _confirmed(node, chain_id, address_of(wallet.address, nonce), signed.hash)


async def _confirmed(node: Node, chain_id: int, address: str, tx_hash: str) -> Deployed:
    until = monotonic() + PATIENCE_SECONDS
    while (receipt := await node.receipt(tx_hash)) is None:
        if monotonic() > until:
            raise AnchorUnusable(f"{tx_hash} is in no block yet; look for it before another try")
        await asyncio.sleep(POLL_SECONDS)
    if not receipt.ok or await node.code(address) != artifact().deployed:
        raise AnchorUnusable(f"{tx_hash} did not bring our contract to {address}")
    return Deployed(address, chain_id, tx_hash, receipt.block, receipt.paid)
