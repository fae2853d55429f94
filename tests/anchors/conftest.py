"""One chain for a module's tests, each of which finds it as it was."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.anchors.chain import Wallet, transaction
from gateway.anchors.contract import artifact
from gateway.anchors.fees import GWEI, Fees
from tests.anchors.local_chain import CHAIN_ID, KEY, LocalChain, a_chain
from tests.anchors.world import World, a_world


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalChain]:
    """With the contract on it."""
    with a_chain() as chain:
        deployment = transaction(
            chain_id=CHAIN_ID,
            nonce=0,
            to=None,
            data="0x" + artifact().bytecode.hex(),
            gas=2_000_000,
            fees=Fees(1000 * GWEI, GWEI),
        )
        chain.ask("eth_sendRawTransaction", "0x" + Wallet(KEY).sign(deployment).raw.hex())
        chain.mine()  # by itself anvil does it when it finds the time
        yield chain


@pytest.fixture
async def world(chain: LocalChain, tmp_path: Path) -> AsyncIterator[World]:
    # Within the test's own loop, to which the nodes' connections belong.
    with a_world(chain, tmp_path) as made:
        yield made
