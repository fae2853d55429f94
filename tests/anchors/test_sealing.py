"""What an anchor knows of the log against what the database holds: a copy put back is sealed."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.anchors import rows
from gateway.anchors.chain import Wallet, log_id, transaction
from gateway.anchors.fees import GWEI, WEI_PER_FLR, Fees
from gateway.anchors.files import Files
from gateway.anchors.flare import Flare, Terms
from gateway.anchors.outbox import Outbox
from gateway.anchors.values import Anchor, Condition, Final, Head, Known, Waiting
from gateway.anchors.worker import Backend, Deadlines, Worker
from gateway.trace import receipts
from gateway.trace.checkpoint import Signing
from tests import places
from tests.anchors.local_chain import CHAIN_ID, LocalChain
from tests.anchors.test_worker import Notary
from tests.anchors.world import WALLET, Time
from tests.anchors.world import World as ChainWorld
from tests.builders import World, a_state
from tests.trace.evidence_world import append, change, sign

pytestmark = pytest.mark.anyio

NAME = "elsewhere"


@dataclass
class Scene:
    world: World
    worker: Worker
    outbox: Outbox
    time: Time

    async def anchor(self) -> None:
        """One record more, and everything anchored."""
        append(self.world)
        await self.until_covered()

    async def until_covered(self, chain: LocalChain | None = None) -> None:
        for _ in range(40):
            self.time.ahead += 601
            await self.worker.step()
            if chain is not None:
                chain.settle()
            if self.covered().get(self.world.state.log.number) == self.world.state.log.size:
                return
        raise AssertionError(f"not anchored: {self.covered()}")

    def covered(self) -> dict[int, int]:
        return self.world.state.registry.read_now(
            lambda c: receipts.covered(c, self.outbox.backend)
        )

    def logs(self) -> list[tuple[Any, ...]]:
        return self.world.rows("SELECT origin, sealed_reason FROM logs ORDER BY log")


def a_scene(world: World, backend: Backend, time: Time, name: str = NAME) -> Scene:
    state = world.state
    time.rule(state)
    outbox = Outbox(state.writer, state.reader, state.clock, name)
    signing = Signing(state.writer, state.checkpoints)

    async def do_sign() -> Head:
        signed = await signing.before_anchor()
        head = signed.checkpoint
        return Head(signed.log, head.origin, head.size, head.root, signed.note)

    state.writer.change_now(lambda c: rows.register(c, name, {"by": "us"}, state.clock.now()))
    worker = Worker(backend, outbox, state.log, do_sign, Deadlines(30, 600), signing.seal)
    return Scene(world, worker, outbox, time)


def files(world: World, folder: Path) -> Files:
    return Files(folder, world.state.clock, world.state.checkpoints.public)


@contextmanager
def put_back(data: Path, copy: Path) -> Iterator[World]:
    """The database as it was, and no checkpoint file that knows better."""
    (data / "checkpoints.ndjson").unlink(missing_ok=True)
    places.copy(copy, data)
    with a_state(data) as world:
        yield world


@pytest.mark.parametrize("kind", ["folder", "file"])
async def test_a_database_behind_the_storage_is_sealed_at_the_start(
    tmp_path: Path, kind: str
) -> None:
    data, copy, outside = tmp_path / "data", tmp_path / "copy", tmp_path / "outside"
    if kind == "folder":
        outside.mkdir()
    time = Time(start=4_000_000_000.0)
    with a_state(data) as world:
        await a_scene(world, files(world, outside), time).anchor()
    shutil.copytree(data, copy)
    places.copy(data, copy)
    with a_state(data) as world:  # untouched, it is no other than before
        scene = a_scene(world, files(world, outside), time)
        await scene.anchor()
        size = world.state.log.size
        assert len(scene.logs()) == 1
    with put_back(data, copy) as world:
        scene = a_scene(world, files(world, outside), time)
        behind = world.state.log.size
        await scene.worker.step()
        (old, new) = scene.logs()
        assert f"it holds {size} records of this log and the database {behind}" in old[1]
        assert new[0] == f"{old[0]}-2"
        assert world.state.log.origin == new[0]
        assert "it holds" in world.state.checkpoints.warnings()["sealed log"]
        await scene.until_covered()
        assert len(scene.logs()) == 2


async def test_storage_that_knows_another_root_seals_the_log(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    time = Time(start=4_000_000_000.0)
    with a_state(data) as world:
        await a_scene(world, files(world, outside), time).anchor()
        append(world, 5)
        # Rewritten and signed anew by who holds database and key: only the storage knows.
        change(world, places.sql("UPDATE trace SET leaf = zeroblob(32) WHERE idx = 1"))
        change(world, "DELETE FROM checkpoints")
    (data / "checkpoints.ndjson").unlink(missing_ok=True)
    with a_state(data) as world:
        sign(world)
        scene = a_scene(world, files(world, outside), time)
        assert len(scene.logs()) == 1
        await scene.worker.step()
        assert "it holds another root for the first" in scene.logs()[0][1]


async def test_what_the_logs_key_has_not_signed_contradicts_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with a_state(tmp_path / "data") as world:
        backend = files(world, outside)
        await a_scene(world, backend, Time(start=4_000_000_000.0)).anchor()
        (path,) = outside.iterdir()
        forged = path.with_name(path.name.replace(path.name[-30:-11], "9" * 19))
        forged.write_text(path.read_text().replace("\n", "\n9", 1))
        known = await backend.known(world.state.log.origin)
        assert not isinstance(known, Waiting)
        assert [one.size for one in known] == [world.state.log.size]


async def test_a_head_that_is_known_only_while_following_seals_too(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        notary = Notary()
        scene = a_scene(world, notary, Time(start=4_000_000_000.0))
        await scene.anchor()
        first = world.state.log.origin
        notary.knows[first] = Known(world.state.log.size + 50, b"r" * 32)
        await scene.anchor()
        (old, new) = scene.logs()
        assert "it holds" in old[1]
        assert notary.heads[-1].origin == new[0]
        states = world.rows("SELECT state FROM anchors WHERE origin = ? ORDER BY size", first)
        assert [state for (state,) in states] == ["final", "void"]


async def test_a_backend_that_contradicts_every_log_does_not_seal_them_all(tmp_path: Path) -> None:
    class Liar(Notary):
        async def known(self, origin: str) -> Sequence[Known]:
            return [Known(1 << 40, b"r" * 32)]

    with a_state(tmp_path) as world:
        scene = a_scene(world, Liar(), Time(start=4_000_000_000.0))
        append(world)
        for _ in range(5):
            scene.time.ahead += 601
            await scene.worker.step()
        assert len(scene.logs()) == 2
        (backend,) = world.state.registry.read_now(receipts.standing).backends
        assert backend.condition == Condition.FORK


async def test_a_backend_that_cannot_be_asked_is_waited_for(tmp_path: Path) -> None:
    class Away(Notary):
        async def known(self, origin: str) -> Waiting:
            return Waiting(Condition.UNREACHABLE, "nobody answers", 9.0)

    with a_state(tmp_path) as world:
        scene = a_scene(world, Away(), Time(start=4_000_000_000.0))
        append(world)
        assert await scene.worker.step() == 9.0
        assert len(scene.logs()) == 1


async def test_a_sealed_logs_end_is_covered_through_its_successor(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        append(world, 4)
        sign(world)
        world.state.writer.change_now(lambda c: world.state.checkpoints.seal(c, 0, "for a test"))
        scene = a_scene(world, Notary(), Time(start=4_000_000_000.0))
        await scene.until_covered()
        assert scene.covered() == {0: 8, 1: world.state.log.size}
        standing = world.state.registry.read_now(receipts.standing)
        assert standing.state == "ANCHORED"
        assert standing.size == standing.anchored == 8 + world.state.log.size


# --- the chain ---


def a_flare(chain: ChainWorld, world: World, outbox: Outbox) -> Flare:
    async def root_at(log: int, size: int) -> bytes | None:
        return None

    terms = Terms(CHAIN_ID, chain.contract, 100 * WEI_PER_FLR, 30.0)
    return Flare([chain.node()], WALLET, terms, outbox, root_at)


class Later:
    """The chain as a backend, once its outbox is there."""

    flare: Flare

    async def advance(self, anchor: Anchor) -> Final | Waiting:
        return await self.flare.advance(anchor)

    async def known(self, origin: str) -> Sequence[Known] | Waiting:
        return await self.flare.known(origin)

    def close(self) -> None: ...


def on_chain(chain: ChainWorld, world: World, time: Time) -> Scene:
    backend = Later()
    scene = a_scene(world, backend, time)
    backend.flare = a_flare(chain, world, scene.outbox)
    return scene


async def test_a_database_behind_the_chain_is_sealed_and_its_successor_is_anchored(
    world: ChainWorld, tmp_path: Path
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    time = Time()
    with a_state(data) as gateway:
        scene = on_chain(world, gateway, time)
        append(gateway, 3)
        await scene.until_covered(world.chain)
    shutil.copytree(data, copy)
    places.copy(data, copy)
    with a_state(data) as gateway:
        scene = on_chain(world, gateway, time)
        append(gateway, 3)
        await scene.until_covered(world.chain)
        first, size = gateway.state.log.origin, gateway.state.log.size
        assert len(scene.logs()) == 1
    with put_back(data, copy) as gateway:
        scene = on_chain(world, gateway, time)
        append(gateway)
        await scene.until_covered(world.chain)
        (old, new) = scene.logs()
        assert f"it holds {size} records of this log" in old[1]
        flare = a_flare(world, gateway, scene.outbox)
        for origin, of in ((first, size), (new[0], gateway.state.log.size)):
            known = await flare.known(origin)
            assert not isinstance(known, Waiting)
            assert [one.size for one in known] == [of]


# --- another key on the chain ---

HEIR = Wallet(bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"))
"""anvil's second account."""


def of_writer(
    chain: ChainWorld, world: World, wallet: Wallet, successor: str | None, time: Time
) -> tuple[Scene, Flare]:
    """A gateway that anchors with that key, as `gateway.anchors.flare_setup` opens it."""
    backend = Later()
    name = f"flare:{CHAIN_ID}:{wallet.address[2:10]}"
    scene = a_scene(world, backend, time, name)
    identity = {"chain_id": CHAIN_ID, "contract": chain.contract, "writer": wallet.address}
    identity |= {"successor": successor}
    now = world.state.clock.now()
    world.state.writer.change_now(lambda c: rows.register(c, name, identity, now))

    async def root_at(log: int, size: int) -> bytes | None:
        return None

    terms = Terms(CHAIN_ID, chain.contract, 100 * WEI_PER_FLR, 30.0)
    flare = backend.flare = Flare([chain.node()], wallet, terms, scene.outbox, root_at)
    return scene, flare


async def test_what_was_anchored_under_the_key_before_counts_after_a_change(
    world: ChainWorld, tmp_path: Path
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    time = Time()
    with a_state(data) as gateway:
        scene, _ = of_writer(world, gateway, WALLET, None, time)
        append(gateway, 3)
        await scene.until_covered(world.chain)
    shutil.copytree(data, copy)
    places.copy(data, copy)
    with a_state(data) as gateway:
        scene, _ = of_writer(world, gateway, WALLET, None, time)
        append(gateway, 3)
        await scene.until_covered(world.chain)
        size = gateway.state.log.size
    with put_back(data, copy) as gateway:
        # The operator lost the key with the disk: another one anchors from here on.
        scene, flare = of_writer(world, gateway, HEIR, None, time)
        known = await flare.known(gateway.state.log.origin)
        assert not isinstance(known, Waiting)
        assert [one.size for one in known] == [size]
        await scene.worker.step()
        assert f"it holds {size} records of this log" in scene.logs()[0][1]


async def test_a_successor_that_has_anchored_counts_for_a_copy_of_before(
    world: ChainWorld, tmp_path: Path
) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    time = Time()
    with a_state(data) as gateway:
        scene, _ = of_writer(world, gateway, WALLET, HEIR.address, time)
        append(gateway, 3)
        await scene.until_covered(world.chain)
    shutil.copytree(data, copy)
    places.copy(data, copy)
    with a_state(data) as gateway:
        scene, flare = of_writer(world, gateway, HEIR, None, time)
        append(gateway, 3)
        await scene.until_covered(world.chain)
        assert len(scene.logs()) == 1
        size = gateway.state.log.size
        known = await flare.known(gateway.state.log.origin)
        assert not isinstance(known, Waiting)
        assert {one.size for one in known} > {size}
    with put_back(data, copy) as gateway:
        scene, _ = of_writer(world, gateway, WALLET, HEIR.address, time)
        await scene.worker.step()
        assert f"it holds {size} records of this log" in scene.logs()[0][1]


async def lie(world: ChainWorld, origin: str) -> None:
    """A head that never was, anchored by whoever got hold of the first key."""
    node = world.node()
    signed = WALLET.sign(
        transaction(
            chain_id=CHAIN_ID,
            nonce=await node.nonce(WALLET.address),
            to=node.contract,
            data=node.call_data(log_id(origin), 900, b"l" * 32),
            gas=200_000,
            fees=Fees(1000 * GWEI, GWEI),
        )
    )
    world.chain.ask("eth_sendRawTransaction", "0x" + signed.raw.hex())
    world.chain.settle()


async def test_who_has_a_key_that_was_given_up_seals_nothing_with_it(
    world: ChainWorld, tmp_path: Path
) -> None:
    time = Time()
    with a_state(tmp_path / "data") as gateway:
        origin = gateway.state.log.origin
        before, _ = of_writer(world, gateway, WALLET, None, time)
        append(gateway, 3)
        await before.until_covered(world.chain)
        ours = gateway.state.log.size
        scene, flare = of_writer(world, gateway, HEIR, None, time)
        append(gateway)
        await scene.until_covered(world.chain)
        await lie(world, origin)
        known = await flare.known(origin)
        assert not isinstance(known, Waiting)
        assert [one.size for one in known] == [gateway.state.log.size, ours]
        append(gateway)
        await scene.until_covered(world.chain)
        assert len(scene.logs()) == 1
