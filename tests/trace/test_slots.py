"""Several processes on one database: each has its own log, and who lost it writes nothing more."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway import keyring
from gateway.background.takeover import Tenure, settle_lapsed
from gateway.clock import Clock, after
from gateway.database_place import Place
from gateway.ids import new_id
from gateway.store import migrations, tables
from gateway.store.database import reading_engine, writing_engine
from gateway.store.writer import Writer
from gateway.trace import slots
from gateway.trace.checkpoint import Checkpoints, Signed
from gateway.trace.log import Log
from gateway.trace.names import LogName
from gateway.trace.recheck import recheck
from gateway.trace.record import Draft
from gateway.trace.slots import SlotLost
from gateway.values import ProjectId
from tests import places
from tests.builders import World, a_state
from tests.places import place_of
from tests.trace.evidence_world import PROJECT

pytestmark = pytest.mark.anyio

START = 1_900_000_000.0


@dataclass
class Time:
    """Of all processes: as on one database server."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Gateway:
    """What one process has of a shared database."""

    writer: Writer
    log: Log
    checkpoints: Checkpoints
    place: Place

    def append(self, count: int = 1, project: ProjectId = PROJECT) -> None:
        drafts = [Draft("event", new_id("evt"), project) for _ in range(count)]
        self.writer.change_now(lambda c: self.log.append(c, drafts))

    def sign(self) -> Signed:
        signed = self.writer.change_now(self.checkpoints.make)
        assert signed is not None
        return signed

    def records(self, kind: str) -> list[dict[str, Any]]:
        engine = reading_engine(self.place)
        t = tables.trace.c
        query = select(t.body).where(t.kind == kind).order_by(t.log, t.idx)
        with engine.connect() as connection, connection.begin():
            found = [json.loads(row.body) for row in connection.execute(query)]
        engine.dispose()
        return found


@dataclass
class Machines:
    folder: Path
    place: Place
    time: Time = field(default_factory=Time)
    opened: list[Gateway] = field(default_factory=list)

    def start(self, holder: str) -> Gateway:
        """As a gateway starts on a database that others use too."""
        engine = writing_engine(self.place)
        clock = Clock(self.time)
        keys = keyring.load(self.folder / "keys")
        log = Log(keys, clock)
        with engine.connect() as connection, connection.begin():
            slot = slots.take(connection, holder, clock.now())
            log.load(connection, "gw.example/trace/main", slot)
        writer = Writer(engine, [log])
        writer.start()
        checkpoints = Checkpoints(log, keys, None)
        writer.change_now(checkpoints.open)
        gateway = Gateway(writer, log, checkpoints, self.place)
        self.opened.append(gateway)
        return gateway

    def stop(self, gateway: Gateway) -> None:
        gateway.writer.change_now(lambda c: slots.give(c, gateway.log.slot))

    def checks(self) -> dict[str, str]:
        engine = reading_engine(self.place)
        with engine.connect() as connection, connection.begin():
            found = recheck(connection, None, lambda *_: None)
        engine.dispose()
        return {f"{check.log} {check.name}".strip(): check.status for check in found}


@contextmanager
def machines_in(folder: Path, place: Place | None = None) -> Iterator[Machines]:
    folder.mkdir(exist_ok=True)
    keyring.create(folder / "keys")
    place = place or place_of(folder)
    engine = writing_engine(place)
    migrations.upgrade(engine)
    engine.dispose()
    made = Machines(folder, place)
    try:
        yield made
    finally:
        for gateway in made.opened:
            gateway.writer.close()


@pytest.fixture
def machines(tmp_path: Path, place: Place) -> Iterator[Machines]:
    with machines_in(tmp_path / "data", place) as made:
        yield made


def test_two_gateways_write_two_logs_of_one_database(machines: Machines) -> None:
    one, two = machines.start("a"), machines.start("b")
    for _ in range(3):
        one.append(2)
        two.append(1)
    assert (one.log.origin, two.log.origin) == ("gw.example/trace/main", "gw.example/trace/main.1")
    assert (one.log.size, two.log.size) == (6, 4)  # with the genesis of the second
    pseqs = sorted((r["pseq"], r["id"]) for r in one.records("event"))
    assert [p for p, _ in pseqs] == [0, 0, 1, 1, 2, 2, 3, 4, 5]  # by log and project
    assert set(machines.checks().values()) == {"PASS"}


def test_a_further_logs_first_record_names_the_others(machines: Machines) -> None:
    one = machines.start("a")
    one.append(5)
    signed = one.sign().checkpoint
    two = machines.start("b")
    (genesis,) = two.records("genesis")
    assert (genesis["idx"], genesis["slot"], genesis["epoch"]) == (0, 1, 1)
    assert genesis["logs"][0] == f"{signed.origin} 5 {signed.root.hex()}"
    assert genesis["logs"][1].startswith("gw.example/trace/main.1 0 ")


def test_a_slot_that_was_given_back_is_taken_again_with_its_log(machines: Machines) -> None:
    one = machines.start("a")
    one.append(5)
    machines.stop(one)
    two = machines.start("b")
    assert (two.log.slot.number, two.log.slot.epoch, two.log.size) == (0, 2, 5)
    assert two.records("takeover") == []
    two.append()
    assert set(machines.checks().values()) == {"PASS"}


def test_a_held_slot_is_taken_by_nobody_but_its_own_holder(machines: Machines) -> None:
    machines.start("a")
    assert machines.start("b").log.slot.number == 1
    again = machines.start("a")  # restarted at once, its lease not over
    assert (again.log.slot.number, again.log.slot.epoch) == (0, 2)


def test_a_lapsed_slot_is_taken_over_and_its_former_holder_is_fenced_off(
    machines: Machines,
) -> None:
    one = machines.start("a")
    one.append(5)
    signed = one.sign()
    machines.time.now += slots.LEASE_SECONDS + 1
    two = machines.start("b")
    assert (two.log.slot.number, two.log.slot.epoch) == (0, 2)
    (takeover,) = two.records("takeover")
    assert (takeover["former"], takeover["by"], takeover["idx"]) == ("a", "b", 5)
    for attempt in (one.append, one.sign):
        with pytest.raises(SlotLost, match="slot 0 was taken over"):
            attempt()
    with pytest.raises(SlotLost):
        one.writer.change_now(lambda c: slots.renew(c, one.log.slot, one.log.now))
    assert one.writer.failing
    two.append(2)
    assert two.sign().checkpoint.size == two.log.size == 8
    assert two.sign().checkpoint.origin == signed.checkpoint.origin
    assert set(machines.checks().values()) == {"PASS"}


def test_a_lease_that_is_prolonged_does_not_run_out(machines: Machines) -> None:
    one = machines.start("a")
    for _ in range(4):
        machines.time.now += slots.LEASE_SECONDS - 1
        one.writer.change_now(lambda c: slots.renew(c, one.log.slot, one.log.now))
    assert machines.start("b").log.slot.number == 1


def test_a_log_that_is_taken_over_is_held_against_what_was_signed_of_it(
    machines: Machines,
) -> None:
    one = machines.start("a")
    one.append(5)
    one.sign()
    one.writer.change_now(lambda c: c.exec_driver_sql("DELETE FROM trace WHERE idx = 4"))
    machines.time.now += slots.LEASE_SECONDS + 1
    two = machines.start("b")
    assert two.log.origin == "gw.example/trace/main-2"
    (recovery,) = two.records("recovery")
    assert recovery["sealed"] == "gw.example/trace/main"
    three = machines.start("c")
    assert three.log.origin == "gw.example/trace/main.1"  # numbers of slots and logs are apart
    assert three.log.number == 2


_STOPPED = """
import sys
from pathlib import Path
from tests.trace.test_slots import Machines, SlotLost
place = sys.argv[2]
machines = Machines(Path(sys.argv[1]), place if "://" in place else Path(place))
gateway = machines.start("stopped")
print("holds", file=sys.stderr, flush=True)
try:
    for _ in sys.stdin:
        gateway.append()
        print("appended", file=sys.stderr, flush=True)
except SlotLost as lost:
    print("lost", file=sys.stderr, flush=True)
"""


def test_a_process_that_was_stopped_beyond_its_lease_appends_nothing_more(
    machines: Machines,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPED, str(machines.folder), str(machines.place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the writer's own words
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "holds\n"
        process.stdin.write("go on\n")
        assert process.stderr.readline() == "appended\n"
        os.kill(process.pid, signal.SIGSTOP)
        machines.time.now += slots.LEASE_SECONDS + 1
        two = machines.start("b")
        two.append(3)
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.write("go on\n")
        assert process.stderr.readline() == "lost\n"
    assert process.returncode == 0
    assert two.log.slot.number == 0
    assert two.log.size == 5  # one of before, the takeover, three
    assert set(machines.checks().values()) == {"PASS"}


def test_names_of_logs_are_read_back() -> None:
    for slot in (0, 1, 12):
        for generation in (1, 2, 30):
            name = LogName("gw.example/trace/main", slot, generation)
            assert LogName.parse(str(name)) == name
    assert str(LogName.parse("g/main.1").successor) == "g/main.1-2"


# --- beside a whole gateway ---


@contextmanager
def a_dead_neighbour(folder: Path) -> Iterator[tuple[World, str]]:
    """A gateway, and the slot of one that died while a call of it was under way."""
    with a_state(folder) as world:
        budget = world.add_budget(10)
        now = world.state.clock.now()
        world.change(
            lambda c: c.exec_driver_sql(
                places.sql("INSERT INTO log_slots VALUES (1, 'dead', 3, ?)"), (after(now, -1),)
            )
        )
        permit = asyncio.run(world.admission().admit(world.approved()))
        world.change(lambda c: c.exec_driver_sql("UPDATE open_calls SET slot = 1"))
        assert world.open_calls() == [permit.call.id]
        yield world, budget


def test_what_a_dead_gateway_left_open_is_settled_as_unknown_in_its_own_log(
    tmp_path: Path,
) -> None:
    with a_dead_neighbour(tmp_path) as (world, budget):
        state = world.state
        before = state.log.size
        origin = state.writer.change_now(lambda c: settle_lapsed(c, state))
        assert origin == f"{state.log.origin}.1"
        assert (world.open_calls(), world.window(budget)) == ([], (1, 0))
        assert state.log.size == before
        (outcome,) = world.records("outcome")
        assert outcome["fate"] == "unknown"
        kinds = world.rows("SELECT kind FROM trace WHERE log = 1 ORDER BY idx")
        assert [kind for (kind,) in kinds] == ["takeover", "outcome"]
        assert world.rows("SELECT size FROM checkpoints WHERE log = 1") == [(2,)]
        assert world.rows("SELECT holder, epoch FROM log_slots WHERE slot = 1") == [("", 4)]
        assert state.writer.change_now(lambda c: settle_lapsed(c, state)) == ""


def test_a_start_settles_nothing_of_another_slot(tmp_path: Path) -> None:
    with a_dead_neighbour(tmp_path) as (world, _):
        left = world.open_calls()
    with a_state(tmp_path) as world:
        assert world.open_calls() == left


async def test_a_log_names_those_that_came_after_it(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        state = world.state
        tenure = Tenure(state)
        await tenure.once()
        assert world.records("heads") == []
        insert = "INSERT INTO logs (log, slot, origin, created_at) VALUES (1, 1, 'x', '')"
        world.change(lambda c: c.exec_driver_sql(insert))
        await tenure.once()
        await tenure.once()
        (heads,) = world.records("heads")
        assert [line.split(" ")[0] for line in heads["logs"]] == [state.log.origin, "x"]


async def test_who_lost_the_slot_ends(tmp_path: Path) -> None:
    with a_state(tmp_path) as world:
        world.change(lambda c: c.exec_driver_sql("UPDATE log_slots SET epoch = epoch + 1"))
        with pytest.raises(SlotLost):
            await Tenure(world.state).once()
