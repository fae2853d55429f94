"""A chain of our own: anvil with the test network's id, mining when told to."""

import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tests.conftest import missing

NODE_MODULES = Path(__file__).parent.parent / "node" / "node_modules"
CHAIN_ID = 114
LOOPBACK = (ip_network("127.0.0.0/8"),)
KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""anvil's first account, known to everybody and rich here."""


@dataclass(frozen=True, slots=True)
class LocalChain:
    url: str

    def ask(self, method: str, *params: object) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            told = json.load(answer)
        assert "error" not in told, told
        return told["result"]

    def mine(self, blocks: int = 1) -> None:
        self.ask("anvil_mine", hex(blocks))

    def mine_by_itself(self, wanted: bool) -> None:
        self.ask("evm_setAutomine", wanted)

    def take_back(self, snapshot: str) -> None:
        # What waits would be mined, a moment later, on the chain of the next test.
        self.ask("anvil_dropAllTransactions")
        assert self.ask("evm_revert", snapshot)
        self.mine_by_itself(True)

    def settle(self) -> None:
        """Mine what waits, and make it final: anvil calls that final which is two blocks old."""
        self.mine(4)

    def pending(self) -> list[str]:
        block = self.ask("eth_getBlockByNumber", "pending", False)
        return list(block["transactions"])

    def set_base_fee(self, gwei: int) -> None:
        self.ask("anvil_setNextBlockBaseFeePerGas", hex(gwei * 10**9))


def npm_program(*path: str) -> Path:
    found = NODE_MODULES.joinpath(*path)
    if not found.exists():
        missing(f"{path[-1]} is missing: run `npm ci --ignore-scripts` in tests/node")
    return found


def _anvil() -> str:
    # npm's package for this platform; elsewhere than on Linux, one that is installed otherwise.
    found = shutil.which("anvil")
    return found or str(npm_program("@foundry-rs", "anvil-linux-amd64", "bin", "anvil"))


@contextmanager
def a_chain(*arguments: str) -> Iterator[LocalChain]:
    """One anvil. Its base fee falls block by block, so tests that depend on it set it."""
    process = subprocess.Popen(
        [
            *(_anvil(), "--host", "127.0.0.1", "--port", "0", "--chain-id", str(CHAIN_ID)),
            *("--hardfork", "cancun", "--slots-in-an-epoch", "1", "--gas-limit", "20000000"),
            *("--block-base-fee-per-gas", "25000000000", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = None
        for line in process.stdout:
            if told := re.search(r"Listening on 127\.0\.0\.1:(\d+)", line):
                port = told[1]
                break
        assert port is not None, "anvil has ended"
        # Nobody reads on, and a full pipe would stop the chain.
        reading = threading.Thread(target=process.stdout.read)
        reading.start()
        yield LocalChain(f"http://127.0.0.1:{port}")
        process.terminate()
        reading.join()
    finally:
        process.terminate()
        process.communicate(timeout=30)
