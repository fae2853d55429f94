"""The contract on a local chain, and the artifact that is shipped of it."""

import subprocess
from collections.abc import AsyncIterator

import pytest
from web3.types import RPCEndpoint

from gateway.anchors.chain import LOG_WINDOW, Node, Reverted, log_id, transaction
from gateway.anchors.contract import FOLDER, artifact
from gateway.anchors.fees import GWEI, Fees
from gateway.egress.outgoing import Outgoing
from tests.anchors.local_chain import CHAIN_ID, LOOPBACK, LocalChain, npm_program
from tests.anchors.world import CONTRACT, WALLET
from tests.conftest import needs

pytestmark = pytest.mark.anyio

FEES = Fees(1000 * GWEI, GWEI)
LOG = log_id("gw.example/trace/main")


@pytest.fixture
async def node(chain: LocalChain) -> AsyncIterator[Node]:
    """What the test does is taken back after it."""
    snapshot = chain.ask("evm_snapshot")
    chain.mine_by_itself(False)
    node = Node(Outgoing(chain.url, private_allowed=LOOPBACK), CONTRACT)
    yield node
    node.close()
    chain.take_back(snapshot)


async def sent(node: Node, *, to: str | None, data: str, gas: int = 200_000) -> str:
    nonce = await node.nonce(WALLET.address)
    signed = WALLET.sign(
        transaction(chain_id=CHAIN_ID, nonce=nonce, to=to, data=data, gas=gas, fees=FEES)
    )
    await node.send(signed.raw)
    await node._w3.provider.make_request(RPCEndpoint("anvil_mine"), ["0x1"])
    return signed.hash


async def anchored(node: Node, size: int, root: bytes) -> str:
    return await sent(node, to=CONTRACT, data=node.call_data(LOG, size, root))


def a_root(number: int) -> bytes:
    return number.to_bytes(32, "big")


def asked(node: Node, size: int, root: bytes) -> dict[str, object]:
    return {"from": WALLET.address, "to": CONTRACT, "data": node.call_data(LOG, size, root)}


def test_the_artifact_is_what_the_compiler_makes_of_the_source() -> None:
    node = needs("node", "install Node.js")
    npm_program("solc", "package.json")
    modules = npm_program("solc").parent.parent
    made = subprocess.run(
        [node, FOLDER / "compile.cjs"], cwd=modules, capture_output=True, check=True, timeout=240
    )
    assert made.stdout == (FOLDER / "AuditAnchor.json").read_bytes()


async def test_what_lies_on_chain_is_the_artifact(node: Node) -> None:
    assert await node.code(CONTRACT) == artifact().deployed
    assert await node.chain_id() == CHAIN_ID


async def test_a_head_is_kept_and_told(node: Node) -> None:
    tx = await anchored(node, 10, a_root(1))
    receipt = await node.receipt(tx)
    assert receipt is not None
    assert receipt.ok
    [event] = receipt.events
    assert (event.size, event.root, event.seq, event.prev_block) == (10, a_root(1), 1, 0)
    head = await node.head(WALLET.address, LOG)
    assert (head.size, head.seq, head.block, head.root) == (10, 1, receipt.block, a_root(1))


async def test_nothing_is_held_of_a_log_that_was_never_anchored(node: Node) -> None:
    head = await node.head(WALLET.address, log_id("another"))
    assert (head.size, head.seq, head.root) == (0, 0, bytes(32))


async def test_the_whole_history_is_found_thirty_blocks_at_a_time(
    node: Node, chain: LocalChain
) -> None:
    for number, blocks in enumerate((40, 70, 100), 1):
        await anchored(node, number * 10, a_root(number))
        chain.mine(blocks)
    latest = int(chain.ask("eth_blockNumber"), 16)
    assert await node.events(WALLET.address, LOG, latest - LOG_WINDOW + 1, latest) == []
    history = await node.history(WALLET.address, LOG)
    assert [(event.size, event.root) for event in history] == [
        (30, a_root(3)),
        (20, a_root(2)),
        (10, a_root(1)),
    ]
    assert history[0].block - history[-1].block > 2 * LOG_WINDOW


async def test_two_anchors_in_one_block_are_both_found(node: Node, chain: LocalChain) -> None:
    first = await node.nonce(WALLET.address)
    for number in (1, 2):
        data = node.call_data(LOG, number, a_root(number))
        await node.send(
            WALLET.sign(
                transaction(
                    chain_id=CHAIN_ID,
                    nonce=first + number - 1,
                    to=CONTRACT,
                    data=data,
                    gas=200_000,
                    fees=FEES,
                )
            ).raw
        )
    chain.mine()
    await anchored(node, 3, a_root(3))
    assert [event.size for event in await node.history(WALLET.address, LOG)] == [3, 2, 1]


async def test_the_same_head_again_changes_nothing(node: Node) -> None:
    await anchored(node, 10, a_root(1))
    before = await node.head(WALLET.address, LOG)
    receipt = await node.receipt(await anchored(node, 10, a_root(1)))
    assert receipt is not None
    assert receipt.ok
    assert receipt.events == ()
    assert await node.head(WALLET.address, LOG) == before


@pytest.mark.parametrize(("size", "root"), [(9, 1), (0, 0), (10, 2)])
async def test_a_head_neither_shrinks_nor_forks(node: Node, size: int, root: int) -> None:
    await anchored(node, 10, a_root(1))
    with pytest.raises(Reverted):
        await node.estimate(asked(node, size, a_root(root)))


async def test_nothing_is_anchored_as_empty(node: Node) -> None:
    with pytest.raises(Reverted):
        await node.estimate(asked(node, 0, a_root(1)))


async def test_writers_and_logs_do_not_touch_each_other(node: Node) -> None:
    await anchored(node, 10, a_root(1))
    other = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    assert (await node.head(other, LOG)).size == 0
    await node.estimate({**asked(node, 5, a_root(7)), "from": other})
