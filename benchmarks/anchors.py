"""What anchoring costs: gas on a local chain, and FLR a month for a million calls.

An anchor covers every record up to its head: the price depends on how often there is something to
anchor, not on how many calls there were.
"""

from collections.abc import Sequence

import anyio

from gateway.anchors.chain import Node, Wallet, address_of, log_id, transaction
from gateway.anchors.contract import artifact
from gateway.anchors.fees import GWEI, WEI_PER_FLR, Fees
from gateway.egress.outgoing import Outgoing
from tests.anchors.local_chain import CHAIN_ID, KEY, LOOPBACK, LocalChain, a_chain

MONTH = 30 * 86_400
CALLS = 1_000_000
URGENT_SHARE = 0.05
PRICES = (1, 10, 500)
"""Gwei: a calm network, a busy one, and the least once FIP.16 is live."""


async def measure(chain: LocalChain) -> dict[str, int]:
    """Gas of a deployment, of a log's first anchor and of the next ones."""
    wallet = Wallet(KEY)
    node = Node(Outgoing(chain.url, private_allowed=LOOPBACK), address_of(wallet.address, 0))
    log = log_id("benchmark/trace/main")
    steps: Sequence[tuple[str, str | None, str]] = (
        ("deploy", None, "0x" + artifact().bytecode.hex()),
        ("first anchor of a log", node.contract, node.call_data(log, 1000, b"\xaa" * 32)),
        ("each further anchor", node.contract, node.call_data(log, 2000, b"\xbb" * 32)),
    )
    found = {}
    for nonce, (name, to, data) in enumerate(steps):
        signed = wallet.sign(
            transaction(
                chain_id=CHAIN_ID,
                nonce=nonce,
                to=to,
                data=data,
                gas=2_000_000,
                fees=Fees(1000 * GWEI, GWEI),
            )
        )
        await node.send(signed.raw)
        chain.mine()
        told = chain.ask("eth_getTransactionReceipt", signed.hash)
        found[name] = int(told["gasUsed"], 16)
    node.close()
    return found


def months() -> list[tuple[str, float]]:
    """How many anchors a month takes, by what there is to anchor."""
    urgent = CALLS * URGENT_SHARE
    return [
        ("routine calls alone, each 10 min", MONTH / 600),
        ("something urgent always, each 30 s", MONTH / 30),
        ("an anchor for each urgent call, without a tree", urgent),
        ("an anchor for each call, without a tree", float(CALLS)),
    ]


def main() -> None:
    with a_chain() as chain:
        gas = anyio.run(measure, chain)
    for name, used in gas.items():
        print(f"{name:<46} {used:>9,} gas")
    each = gas["each further anchor"]
    print(f"\nFLR a month for {CALLS:,} calls {'':>23}" + "".join(f"{p:>7} gwei" for p in PRICES))
    for name, anchors in months():
        costs = (anchors * each * price * GWEI / WEI_PER_FLR for price in PRICES)
        print(f"{name:<48}" + "".join(f"{cost:>12,.1f}" for cost in costs))


if __name__ == "__main__":
    main()
