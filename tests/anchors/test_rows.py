"""What the anchors ask of the database, of each kind."""

from pathlib import Path

from sqlalchemy import update

from gateway.anchors import rows
from gateway.database_place import Place
from gateway.store import tables
from tests.trace.test_slots import machines_in


def test_the_first_urgent_record_is_found(tmp_path: Path, place: Place) -> None:
    t = tables.trace.c
    with machines_in(tmp_path / "data", place) as machines:
        gateway = machines.start("a")
        gateway.append(5)
        look = gateway.writer.change_now
        assert look(lambda c: rows.first_urgent(c, 0, 0)) == (None, 5)
        urgent = b'{"anchor":"urgent"}'
        look(lambda c: c.execute(update(tables.trace).where(t.idx == 3).values(body=urgent)))
        at, _ = look(lambda c: rows.first_urgent(c, 0, 0))
        assert at is not None
        assert look(lambda c: rows.first_urgent(c, 0, 4)) == (None, 5)
