"""A real log in a real database, with cold storage beside it that can fail in every way."""

import io
import itertools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import func, select

from gateway.clock import after
from gateway.cold.archive import Archive
from gateway.cold.objects import Folder, Objects
from gateway.cold.reading import ColdStore, reading_also
from gateway.database_place import Place
from gateway.ids import new_id
from gateway.registry import evidence, traces
from gateway.registry.evidence import BundleWriter, Wanted
from gateway.registry.traces import Filter
from gateway.store import tables
from gateway.store.database import reading_engine
from gateway.trace.note import VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.verdicts import Check
from tests.builders import World, a_state
from tests.places import place_of
from tests.trace.evidence_world import PROJECT, append, sign

_t = tables.trace.c


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass
class Frail:
    """Objects that end the process at the n-th thing they do, or alter what they are given."""

    inner: Objects
    dies_at: int = 1 << 30
    alter: Callable[[str, bytes], bytes] = lambda name, content: content
    did: int = 0
    made: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        return self.inner.place

    def read(self, name: str) -> bytes:
        self._do()
        return self.inner.read(name)

    def make(self, name: str, content: bytes) -> bool:
        self._do()
        made = self.inner.make(name, self.alter(name, content))
        self.made += [name] * made
        self._do()  # written, and nobody was told
        return made

    def replace(self, name: str, content: bytes) -> None:
        self._do()
        self.inner.replace(name, content)

    def _do(self) -> None:
        self.did += 1
        if self.did >= self.dies_at:
            raise Killed


@dataclass
class ColdWorld:
    """What `World` is, with a log of several tiles and somewhere for them to go."""

    world: World
    objects: Frail
    folder: Path
    database: Place

    @property
    def origin(self) -> str:
        return self.world.state.log.origin

    def archive(self) -> Archive:
        """As a gateway that has started anew has one."""
        state = self.world.state
        return Archive(
            store=ColdStore(self.objects),
            writer=state.writer,
            reader=state.reader,
            now=state.clock.now,
            after_days=0,
            sinks=(),
            holder=new_id("gw"),
        )

    def hot(self) -> int:
        with self.world.state.reader.connect() as connection:
            return connection.execute(select(func.count()).select_from(tables.trace)).scalar_one()

    def cold(self) -> int:
        with self.world.state.reader.connect() as connection:
            query = select(func.count()).select_from(tables.cold_tiles)
            return 256 * connection.execute(query).scalar_one()

    def calls(self) -> list[str]:
        """The ids of some calls, all over the log; to be asked before anything moves."""
        with self.world.state.reader.connect() as connection:
            mine = select(_t.call_id).where(_t.project_id == PROJECT).order_by(_t.idx)
            return list(connection.execute(mine).scalars())[::37]

    def seen(self, calls: list[str]) -> "Seen":
        """All that people and auditors are shown."""
        state = self.world.state
        store = ColdStore(self.objects)  # nothing remembered
        reader = reading_also(reading_engine(state.place), store)
        now = "2099-01-01T00:00:00.000000Z"
        try:
            with reader.connect() as connection, connection.begin():
                rows = [row for one in calls for row in traces.get(connection, PROJECT, one)]
                proofs = [evidence.tlog_proof(one) for one in evidence.prove(connection, rows)]
                listed = list(_pages(connection, now))
            file = io.BytesIO()
            wanted = Wanted(Filter(), disclose=True, leaves=True, previous_sizes=(7, 300, 513))
            BundleWriter(reader, state.keyring, PROJECT, wanted, now, file).write()
        finally:
            reader.dispose()
        with zipfile.ZipFile(file) as bundle:
            members = {name: bundle.read(name) for name in bundle.namelist()}
        return Seen([tuple(row) for row in rows], proofs, listed, members)

    def recheck(self) -> dict[str, Check]:
        state = self.world.state
        engine = reading_also(reading_engine(state.place), ColdStore(self.objects))
        key = VerifierKey.parse(state.checkpoints.verifier_key)
        try:
            with engine.connect() as connection, connection.begin():
                return {one.name: one for one in recheck(connection, key, lambda *_: None)}
        finally:
            engine.dispose()


@dataclass(frozen=True)
class Seen:
    rows: list[tuple[object, ...]]
    proofs: list[str]
    listed: list[tuple[object, ...]]
    bundle: dict[str, bytes]


def _pages(connection: object, now: str) -> Iterator[tuple[object, ...]]:
    cursor = None
    for _ in itertools.count():
        page = traces.listed(connection, PROJECT, Filter(tool="query_records"), now, cursor, 90)  # type: ignore[arg-type]
        yield from (tuple(row) for row in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


@contextmanager
def a_cold_world(
    folder: Path, place: Place | None = None, pairs: int = 420, objects: Objects | None = None
) -> Iterator[ColdWorld]:
    """Two records for each of the ``pairs``, all signed, with ten more behind."""
    (folder / "cold").mkdir(parents=True, exist_ok=True)
    frail = Frail(objects or Folder(folder / "cold"))
    with a_state(folder / "data", place, ColdStore(frail)) as world:
        if world.state.log.size == 0:
            for _ in range(10):
                append(world, pairs // 10, input=b'{"input":{}}')
            sign(world)
            append(world, 5)
            sign(world)
        yield ColdWorld(world, frail, folder / "cold", place or place_of(folder / "data"))


def later(cold: ColdWorld, days: int) -> Callable[[], str]:
    return lambda: after(cold.world.state.clock.now(), days * 86_400)
