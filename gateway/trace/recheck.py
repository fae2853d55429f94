"""Reads a whole database again, from its first record: every hash, place, column and signed head.

The bytes of each record are hashed anew, so it finds what a start does not look for. It only reads,
and works beside a running gateway.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection, Row, func, select

from gateway.cold import reading
from gateway.cold.objects import ColdFault
from gateway.cold.recheck import ColdPart
from gateway.frozen import frozen
from gateway.store import tables
from gateway.trace import note
from gateway.trace.key_chain import opened
from gateway.trace.log import LOG_ITSELF, stored_hashes
from gateway.trace.merkle import TILE_WIDTH, Frontier, leaf_hash, roots
from gateway.trace.names import Named, named
from gateway.trace.note import NoteFault, VerifierKey
from gateway.trace.rekeying import changes
from gateway.trace.verdicts import Check, Status
from gateway.trace.verify_logs import LogView, all_there, heads_agree

_t = tables.trace.c
_PAGE = 5_000
_COLUMNS = (
    ("id", _t.id),
    ("call", _t.call_id),
    ("project", _t.project_id),
    ("pseq", _t.pseq),
    ("ts", _t.ts),
    ("kind", _t.kind),
    ("decision", _t.decision),
    ("reason_code", _t.reason_code),
    ("risk", _t.risk),
    ("agent", _t.agent_id),
    ("server", _t.server_id),
    ("tool", _t.tool),
)
"""A record's field, and the column that repeats it to be searched by."""

Progress = Callable[[int, int], None]
"""``(done, of)``, in records."""


@dataclass(slots=True)
class _Faults:
    """The first fault of each check, and how many there are."""

    found: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, name: str, why: str) -> None:
        first, count = self.found.get(name, (why, 0))
        self.found[name] = first, count + 1

    def check(self, name: str, good: str) -> Check:
        if name not in self.found:
            return Check(name, "PASS", good)
        why, count = self.found[name]
        return Check(name, "FAIL", why if count == 1 else f"{why} (and {count - 1} more)")


def recheck(connection: Connection, key: VerifierKey | None, progress: Progress) -> list[Check]:
    """Every check of every log. Without a key the checkpoints' signatures are not checked."""
    total = connection.execute(select(func.count()).select_from(tables.trace)).scalar_one()
    total += reading.total(connection)[0]
    done = 0
    checks: list[Check] = []
    rows = connection.execute(select(tables.logs).order_by(tables.logs.c.log)).all()
    views: list[LogView] = []
    believed = _believed(connection, key)
    for row in rows:
        one = _OneLog(connection, row, believed)
        for size in one.read():
            progress(done + size, total)
        done += one.frontier.size
        told = one.checks()
        if len(rows) > 1:
            told = [Check(c.name, c.status, c.detail, row.origin) for c in told]
        checks += told
        views.append(one.view())
    checks += _all_logs(connection, views, key)
    return checks


def _all_logs(
    connection: Connection, views: list[LogView], key: VerifierKey | None
) -> Iterator[Check]:
    unnamed = _t.log.not_in(select(tables.logs.c.log))
    stray = connection.execute(select(_t.log).where(unnamed).limit(1)).scalar()
    if stray is not None:
        yield Check("logs", "FAIL", f"there are records of log {stray}, and it is in no table")
    elif views:
        yield all_there(views, views[0].origin if key is None else key.name, None)
    if (agreement := heads_agree(views)) is not None:
        yield agreement


@frozen
class _Believed:
    """``handed``: a log was handed over to the trusted key, so older heads are an earlier one's."""

    keys: tuple[bytes, ...]
    handed: bool


def _believed(connection: Connection, key: VerifierKey | None) -> _Believed:
    """The keys that may have signed heads, from the trusted one on; none without one."""
    if key is None:
        return _Believed((), handed=False)
    believed, handed = [key.public], False
    numbers = connection.execute(select(tables.logs.c.log).order_by(tables.logs.c.log)).scalars()
    handing = [one for number in numbers.all() for one in changes(connection, number, sys.maxsize)]
    for change in sorted(handing, key=lambda one: one.signed.ts):
        try:
            opened(change.signed.note, change.signed.checkpoint.origin, believed)
        except NoteFault:
            continue
        if change.to.public == key.public:
            handed = True
        elif change.to.public not in believed:
            believed.append(change.to.public)
    return _Believed(tuple(believed), handed)


class _OneLog:
    def __init__(self, connection: Connection, row: Row[Any], believed: _Believed) -> None:
        self._connection = connection
        self._number = int(row.log)
        self._origin = str(row.origin)
        self._believed = believed
        self._vouched = 0
        self._faults = _Faults()
        self._projects: dict[str, tuple[int, str]] = {}
        self._named: dict[str, tuple[int, Named]] = {}
        self.frontier = Frontier()
        self._tiles = self._stored_tiles()
        self._signed = self._heads()
        self._cold = ColdPart(connection, self._number)
        self._gap = False
        self._signatures = len(self._signed)

    def _stored_tiles(self) -> dict[tuple[int, int], bytes]:
        t = tables.tree_tiles.c
        query = select(t.level, t.n, t.hash).where(t.log == self._number)
        return {(row.level, row.n): row.hash for row in self._connection.execute(query)}

    def _heads(self) -> dict[int, bytes]:
        heads: dict[int, bytes] = {}
        c = tables.checkpoints.c
        query = select(c.size, c.root, c.note).where(c.log == self._number).order_by(c.size)
        unsigned: list[str] = []
        signed = False
        for row in self._connection.execute(query):
            heads[row.size] = row.root
            try:
                told = note.parse(row.note.rpartition("\n\n")[0] + "\n")
            except NoteFault as fault:
                self._faults.add("checkpoints", f"the one of {row.size}: {fault}")
                continue
            if why := self._unsigned(row.note):
                unsigned.append(f"the one of {row.size}: {why}")
            elif unsigned and not signed and self._believed.handed:
                # Its records are those before it: what an earlier key signed it vouches for.
                self._vouched = row.size
                unsigned.clear()
            signed = signed or not why
            if (told.origin, told.size, told.root) != (self._origin, row.size, row.root):
                self._faults.add("checkpoints", f"the one of {row.size} is not what its note says")
        for why in unsigned:
            self._faults.add("checkpoints", why)
        return heads

    def _unsigned(self, signed: str) -> str:
        """Why no key that is believed has signed a head; empty when one has, or none is asked."""
        if not self._believed.keys:
            return ""
        try:
            opened(signed, self._origin, self._believed.keys)
        except NoteFault as fault:
            return str(fault)
        return ""

    def read(self) -> Iterator[int]:
        """Follow the log from its first record; yields how far it is, from time to time."""
        for n, entries, digest in self._cold.read():
            self._cold_tile(n, entries, digest)
            yield self.frontier.size
        columns = [column for _, column in _COLUMNS]
        last = self._cold.size - 1
        while True:
            query = (
                select(_t.idx, _t.body, _t.leaf, *columns)
                .where(_t.log == self._number, _t.idx > last)
                .order_by(_t.idx)
                .limit(_PAGE)
            )
            page = self._connection.execute(query).all()
            if not page:
                return
            for row in page:
                self._record(row)
            last = page[-1][0]
            yield self.frontier.size

    def _cold_tile(self, n: int, entries: list[bytes] | None, digest: bytes) -> None:
        start = n * TILE_WIDTH
        if entries is None:
            # What follows is checked all the same; of the projects nobody knows where they were.
            self.frontier.graft(digest, self._tile)
            self._projects.clear()
            self._gap = True
            return
        columns = [column for _, column in _COLUMNS]
        copies = (_t.log == self._number, _t.idx >= start, _t.idx < start + TILE_WIDTH)
        query = select(_t.idx, _t.body, _t.leaf, *columns).where(*copies)
        kept = {row[0]: row for row in self._connection.execute(query)}
        for index, entry in enumerate(entries, start):
            copy = kept.get(index)
            told = None if copy is None else list(copy[3:])
            if copy is not None and copy[1] != entry:
                why = f"the database's copy of record {index} is not the one in cold storage"
                self._faults.add("records.hash", why)
            self._hashed(index, entry, leaf_hash(entry), told)

    def _record(self, row: Any) -> None:
        index, body, leaf = row[0], row[1], row[2]
        place = self.frontier.size
        if index != place:
            self._faults.add("records.index", f"record {index} stands at place {place}")
        hashed = leaf_hash(body)
        if hashed != leaf:
            self._faults.add("records.hash", f"record {index} is not what was hashed")
        self._hashed(index, body, leaf, list(row[3:]))

    def _hashed(self, index: int, body: bytes, leaf: bytes, columns: list[Any] | None) -> None:
        """``columns`` are what the database tells of it, None where it tells nothing."""
        faults = self._faults
        # The tree is that of the stored leaves: so one changed record does not hide the next.
        self.frontier.add(leaf, self._tile)
        self._head()
        try:
            record = orjson.loads(body)
            told = [record.get(name) for name, _ in _COLUMNS]
        except (ValueError, AttributeError):
            faults.add("records.form", f"record {index} is no JSON object")
            return
        if record.get("idx") != index:
            faults.add("records.index", f"record {record.get('idx')} stands at {index}")
        if columns is not None and told != columns:
            faults.add("records.columns", f"the columns of record {index} differ from its bytes")
        self._follow(index, record, leaf.hex())

    def _tile(self, level: int, n: int, digest: bytes) -> None:
        if self._tiles.pop((level, n), None) != digest:
            self._faults.add("tree.tiles", f"tile {n} of level {level} is not that of its leaves")

    def _head(self) -> None:
        root = self._signed.pop(self.frontier.size, None)
        if root is not None and root != self.frontier.root():
            why = f"the one of {self.frontier.size} has another root than the records"
            self._faults.add("checkpoints", why)

    def _follow(self, index: int, record: dict[str, Any], leaf: str) -> None:
        project = str(record.get("project"))
        unknown = self._gap and project not in self._projects
        last, previous = self._projects.get(project, (-1, ""))
        if unknown:
            last = int(record.get("pseq", 0)) - 1
        elif (record.get("pseq"), record.get("pprev")) != (last + 1, previous):
            why = f"record {index} does not follow pseq {last} of {project}"
            self._faults.add("project.sequence", why)
        self._projects[project] = last + 1, leaf
        if project == LOG_ITSELF:
            # The last one of each log: heads only grow, and each is held against the whole tree.
            self._named |= {one.origin: (index, one) for one in named(record)}

    def view(self) -> LogView:
        """To be asked after `read`."""
        named_heads = tuple(self._named.values())
        return LogView(self._origin, self.frontier.size, named_heads, 0, self._agrees)

    def _agrees(self, one: Named) -> tuple[Status, str]:
        if one.size > self.frontier.size:
            return "FAIL", f"there are {self.frontier.size}"
        try:
            root = roots(stored_hashes(self._connection, self._number))(0, one.size)
        except ValueError as fault:
            return "FAIL", str(fault)
        except ColdFault as fault:
            return "SKIP", str(fault)  # told once, with the objects
        return ("PASS", "") if root.hex() == one.root else ("FAIL", "they are others")

    def checks(self) -> list[Check]:
        """To be asked after `read`."""
        faults = self._faults
        size = self.frontier.size
        for behind in self._signed:
            why = f"the one of {behind} is of more records than there are"
            faults.add("checkpoints", why)
        for level, n in self._tiles:
            faults.add("tree.tiles", f"tile {n} of level {level} has no leaves")
        signatures = "" if self._believed.keys else "; signatures NOT CHECKED (no --trust-key)"
        if self._vouched:
            signatures = (
                f"; those before {self._vouched} are an earlier key's, vouched for by yours"
            )
        cold = self._cold.check()
        return [
            *([] if cold is None else [cold]),
            faults.check("records.index", f"{size} records, no gap"),
            faults.check("records.hash", f"{size} records are what was hashed"),
            faults.check("records.form", ""),
            faults.check("records.columns", "every column says what its record says"),
            faults.check("tree.tiles", ""),
            faults.check("project.sequence", f"{len(self._projects)} projects, no gap"),
            faults.check("checkpoints", f"{self._signatures} are of these records{signatures}"),
        ]
