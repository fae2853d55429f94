"""A real outbox, a real chain, and heads of a log that is not there."""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from gateway.anchors.chain import Node, Wallet, log_id
from gateway.anchors.fees import WEI_PER_FLR
from gateway.anchors.flare import Flare, Terms
from gateway.anchors.outbox import Outbox
from gateway.anchors.values import Anchor, Head, Receipt
from gateway.clock import Clock
from gateway.data_dir.state import State
from gateway.egress.outgoing import Outgoing
from gateway.store import migrations
from gateway.store.database import reading_engine, writing_engine
from gateway.store.writer import Writer
from tests.anchors.local_chain import CHAIN_ID, KEY, LOOPBACK, LocalChain
from tests.places import place_of

ORIGIN = "gw.example/trace/main"
CONTRACT = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
"""Of the first contract that anvil's first account makes."""
WALLET = Wallet(KEY)
BACKEND = "flare"


def a_root(size: int) -> bytes:
    return size.to_bytes(32, "big")


def a_head(size: int, origin: str = ORIGIN) -> Head:
    return Head(0, origin, size, a_root(size), f"{origin}\n{size}\n")


@dataclass
class Time:
    """Goes when it is told to, beside the real one."""

    ahead: float = 0.0
    start: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.start + self.ahead

    def rule(self, state: State) -> None:
        """Be the gateway's clock, whatever time it is in the database."""
        state.clock._source = self
        state.writer._set_clock = lambda _: None


@dataclass
class World:
    chain: LocalChain
    engine: Engine
    reader: Engine
    writer: Writer
    time: Time = field(default_factory=Time)
    contract: str = CONTRACT
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.box = self.outbox()

    def node(self, url: str = "") -> Node:
        node = Node(Outgoing(url or self.chain.url, private_allowed=LOOPBACK), self.contract)
        self.nodes.append(node)
        return node

    def outbox(self) -> Outbox:
        """Another process's."""
        return Outbox(self.writer, self.reader, Clock(self.time), BACKEND)

    async def flare(
        self,
        *nodes: Node,
        outbox: Outbox | None = None,
        cap: int = 100 * WEI_PER_FLR,
        chain_id: int = CHAIN_ID,
        root_at: Callable[[int, int], Awaitable[bytes | None]] | None = None,
    ) -> Flare:
        async def by_size(_log: int, size: int) -> bytes | None:
            return a_root(size)

        outbox = outbox or self.box
        await outbox.hold()
        terms = Terms(chain_id, self.contract, cap, 30.0)
        return Flare(nodes or (self.node(),), WALLET, terms, outbox, root_at or by_size)

    async def queued(self, size: int) -> Anchor:
        await self.box.hold()
        return await self.box.queue(a_head(size))

    async def later(self, seconds: float) -> None:
        self.time.ahead += seconds
        await self.box.hold()

    async def history(self) -> list[tuple[int, bytes]]:
        """What the chain has of the log, oldest first."""
        node = self.node()
        events = await node.history(WALLET.address, log_id(ORIGIN))
        return [(event.size, event.root) for event in reversed(events)]

    async def nonce(self) -> int:
        return await self.node().nonce(WALLET.address)


@contextmanager
def a_world(chain: LocalChain, folder: Path) -> Iterator[World]:
    """What happens on the chain is taken back at the end."""
    snapshot = chain.ask("evm_snapshot")
    chain.mine_by_itself(False)
    engine = writing_engine(place_of(folder))
    migrations.upgrade(engine)
    writer = Writer(engine)
    writer.start()
    world = World(chain, engine, reading_engine(place_of(folder)), writer)
    try:
        yield world
    finally:
        for node in world.nodes:
            node.close()
        writer.close()
        world.reader.dispose()
        chain.take_back(snapshot)


class Died(Exception):
    """The process ends here; what is in memory is lost."""


@dataclass
class Mortal:
    """Decides where the process dies: at the n-th passage of a step, or by chance."""

    step: str = ""
    chance: float = 0.0
    seed: int = 0
    deaths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def passes(self, step: str) -> None:
        if step == self.step or self._random.random() < self.chance:
            self.step = ""
            self.deaths.append(step)
            raise Died(step)


class MortalOutbox(Outbox):
    """An outbox whose process may die around each of its writes."""

    mortal: Mortal

    async def signed(self, anchor: Anchor, sent: object) -> None:
        self.mortal.passes("signed, not kept")
        await super().signed(anchor, sent)  # type: ignore[arg-type]
        self.mortal.passes("kept, not sent")

    async def final(self, anchor: Anchor, receipt: Receipt) -> None:
        self.mortal.passes("mined, not recorded")
        await super().final(anchor, receipt)
        self.mortal.passes("recorded")


class MortalNode(Node):
    mortal: Mortal

    async def send(self, raw: bytes) -> None:
        await super().send(raw)
        self.mortal.passes("sent, not noticed")
