"""When a head is anchored: soon after what is urgent, rarely otherwise, once after an outage."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.anchors import rows
from gateway.anchors.fees import Fees
from gateway.anchors.outbox import LEASE_SECONDS, Outbox
from gateway.anchors.values import (
    Anchor,
    Condition,
    Final,
    Head,
    Known,
    Progress,
    Receipt,
    Waiting,
)
from gateway.anchors.worker import Deadlines, Worker
from gateway.background.takeover import settle_lapsed
from gateway.data_dir.state import State
from gateway.ids import new_id
from gateway.registry.evidence import BundleWriter, Wanted
from gateway.registry.traces import Filter
from gateway.trace import receipts
from gateway.trace.bundle import Bundle
from gateway.trace.checkpoint import Signing
from gateway.trace.merkle import extends
from gateway.trace.record import Draft
from gateway.values import ProjectId
from tests.anchors.world import Time
from tests.builders import a_state

pytestmark = pytest.mark.anyio

DOWN = Waiting(Condition.UNREACHABLE, "nobody answers", 60.0)


@dataclass
class Notary:
    """A backend that vouches at once, unless it is told what to answer instead."""

    answer: Progress | None = None
    heads: list[Head] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    knows: dict[str, Known] = field(default_factory=dict)

    async def advance(self, anchor: Anchor) -> Progress:
        self.seen.append(anchor.head.size)
        if self.answer is not None:
            return self.answer
        self.heads.append(anchor.head)
        return Final(Receipt(at="2026-01-01T00:00:00.000000Z"))

    async def known(self, origin: str) -> Sequence[Known] | Waiting:
        return [self.knows[origin]] if origin in self.knows else []

    def close(self) -> None: ...


@dataclass
class Scene:
    state: State
    time: Time
    notary: Notary
    worker: Worker
    outbox: Outbox

    def append(self, *, urgent: bool = False, kind: str = "decision") -> None:
        fields = {"anchor": "urgent"} if urgent else {"tool": '"anchor":"urgent"'}
        draft = Draft(kind, new_id("evt"), ProjectId("prj_1"), fields)
        self.state.writer.change_now(lambda c: self.state.log.append(c, [draft]))

    async def after(self, seconds: int, *, every: int = 3) -> list[int]:
        """Sizes that are anchored once so many seconds have gone by, with a look every few."""
        for second in range(0, seconds, every):
            self.time.ahead += min(every, seconds - second)
            await self.worker.step()
        return [head.size for head in self.notary.heads]


@contextmanager
def a_scene(folder: Path) -> Iterator[Scene]:
    with a_state(folder) as world:
        state = world.state
        time = Time(start=4_000_000_000.0)
        clock = state.clock
        time.rule(state)
        outbox = Outbox(state.writer, state.reader, clock, "notary")
        signing, notary = Signing(state.writer, state.checkpoints), Notary()

        async def sign() -> Head:
            signed = await signing.before_anchor()
            head = signed.checkpoint
            return Head(signed.log, head.origin, head.size, head.root, signed.note)

        state.writer.change_now(lambda c: rows.register(c, "notary", {"by": "us"}, clock.now()))
        worker = Worker(notary, outbox, state.log, sign, Deadlines(30, 600), signing.seal)
        yield Scene(state, time, notary, worker, outbox)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    with a_scene(tmp_path) as scene:
        if scene.state.log.size:
            await scene.after(601, every=601)
            scene.notary.heads.clear()
            scene.notary.seen.clear()
        yield scene


async def test_what_is_urgent_is_anchored_before_its_deadline(scene: Scene) -> None:
    scene.append(urgent=True)
    assert await scene.after(20) == []
    assert await scene.after(9) == [scene.state.log.size]


async def test_what_is_not_urgent_waits_for_the_routine(scene: Scene) -> None:
    scene.append()
    assert await scene.after(500, every=50) == []
    assert len(await scene.after(100, every=20)) == 1


async def test_an_urgent_record_takes_those_before_it_along(scene: Scene) -> None:
    scene.append()
    await scene.after(10)
    scene.append(urgent=True)
    assert len(await scene.after(30)) == 1
    assert len(await scene.after(700, every=50)) == 1


async def test_nothing_new_is_no_reason_and_an_anchors_own_record_is_nothing_new(
    scene: Scene,
) -> None:
    scene.append(urgent=True)
    assert len(await scene.after(1300, every=50)) == 1


async def test_an_outage_of_hours_ends_with_one_anchor_that_covers_it(scene: Scene) -> None:
    scene.notary.answer = DOWN
    for _ in range(10):
        scene.append(urgent=True)
        await scene.after(60, every=20)
    scene.notary.answer = None
    anchored_sizes = await scene.after(2)
    assert anchored_sizes == [scene.state.log.size]
    assert scene.notary.seen == sorted(scene.notary.seen)


async def test_a_head_of_which_something_left_is_brought_to_its_end_first(scene: Scene) -> None:
    class Sends(Notary):
        async def advance(self, anchor: Anchor) -> Progress:
            sent = rows.Sent("0x1", 1, b"raw", 1, Fees(1, 1), scene.outbox.now)
            if not self.seen:
                await scene.outbox.signed(anchor, sent)
            return await super().advance(anchor)

    scene.notary = scene.worker._backend = Sends(DOWN)
    scene.append(urgent=True)
    await scene.after(40)
    scene.append(urgent=True)
    await scene.after(40)
    assert len(set(scene.notary.seen)) == 1
    scene.notary.answer = None
    first, second = await scene.after(60)
    assert first < second == scene.state.log.size


async def test_a_long_wait_that_looks_well_is_told_as_late(scene: Scene) -> None:
    scene.notary.answer = Waiting(Condition.OK, "in block 7", 2.0)
    scene.append(urgent=True)
    await scene.after(45)
    assert condition(scene) == "ok"
    await scene.after(30)
    assert condition(scene) == "late"
    scene.notary.answer = None
    await scene.after(2)
    assert condition(scene) == "ok"


def condition(scene: Scene) -> str:
    [backend] = scene.state.registry.read_now(receipts.standing).backends
    return backend.condition


async def test_the_whole_tells_what_is_anchored_and_what_is_not(scene: Scene) -> None:
    def standing() -> receipts.LogStanding:
        return scene.state.registry.read_now(receipts.standing)

    scene.append(urgent=True)
    assert standing().state == "PENDING"
    await scene.after(30)
    assert (standing().state, standing().anchored) == ("ANCHORED", scene.state.log.size)
    scene.append(urgent=True)
    scene.notary.answer = Waiting(Condition.FORK, "another history", 60.0)
    await scene.after(30)
    assert standing().state == "FAILED"
    assert standing().anchored < standing().size
    scene.state.writer.change_now(rows.disable_all)
    assert standing().state == "LOCAL_ONLY"


async def test_the_receipts_are_there_for_evidence(scene: Scene) -> None:
    scene.append(urgent=True)
    [size] = await scene.after(30)

    def found(largest: int) -> list[receipts.ChainReceipt]:
        read = scene.state.registry.read_now
        return [r for r in read(lambda c: receipts.of_log(c, 0, largest)) if r.size == size]

    [receipt] = found(size)
    assert receipt.root == scene.notary.heads[0].root
    assert receipt.document()["backend"] == "notary"
    assert found(size - 1) == []


async def test_one_process_anchors_and_another_takes_over_when_it_is_gone(scene: Scene) -> None:
    other = Outbox(scene.state.writer, scene.state.reader, scene.state.clock, "notary")
    assert await scene.outbox.hold()
    assert not await other.hold()
    scene.time.ahead += LEASE_SECONDS
    assert await other.hold()
    scene.append(urgent=True)
    scene.time.ahead += 5
    await scene.worker.step()
    assert scene.notary.seen == []
    await other.let_go()
    assert await scene.after(30) != []


async def test_one_anchor_covers_the_logs_of_all_gateways(scene: Scene) -> None:
    def covered() -> dict[int, int]:
        return scene.state.registry.read_now(lambda c: receipts.covered(c, "notary"))

    state = scene.state
    insert = "INSERT INTO log_slots VALUES (1, 'dead', 3, '')"
    state.writer.change_now(lambda c: c.exec_driver_sql(insert))
    state.writer.change_now(lambda c: settle_lapsed(c, state))  # the other's one record is urgent
    assert state.registry.read_now(receipts.standing).state == "PENDING"
    scene.append(urgent=True)
    [size] = await scene.after(30)
    assert covered() == {0: size, 1: 1}
    assert state.registry.read_now(receipts.standing).state == "ANCHORED"
    assert len(await scene.after(1300, every=50)) == 1


async def test_an_urgent_record_of_another_gateway_is_anchored_by_its_deadline(
    scene: Scene,
) -> None:
    state = scene.state
    insert = "INSERT INTO log_slots VALUES (1, 'dead', 3, '')"
    state.writer.change_now(lambda c: c.exec_driver_sql(insert))
    state.writer.change_now(lambda c: settle_lapsed(c, state))
    assert await scene.after(20) == []
    assert len(await scene.after(9)) == 1


async def test_an_evidence_bundle_names_the_anchors_and_the_verifier_takes_them(
    scene: Scene, tmp_path: Path
) -> None:
    scene.append(urgent=True)
    [size] = await scene.after(30)
    scene.append()
    state = scene.state
    signed = state.writer.change_now(lambda c: state.checkpoints.make(c))
    assert signed is not None
    path = tmp_path / "bundle.zip"
    write_bundle(state, path)
    bundle = Bundle(path)
    [anchor] = [one for one in bundle.anchors(0) if one.size == size]
    bundle.close()
    assert anchor.root == scene.notary.heads[0].root
    head = signed.checkpoint
    assert extends(size, anchor.root, head.size, head.root, anchor.consistency)


def write_bundle(state: State, path: Path) -> None:
    wanted = Wanted(Filter())
    with path.open("wb+") as file:
        BundleWriter(state.reader, state.keyring, "prj_1", wanted, state.log.now, file).write()
