"""A page of traces is read along an index, however many there are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from gateway.registry import pages, traces
from gateway.registry.traces import Filter
from gateway.trace.record import Draft
from tests.api.world import World, a_world

NOW = "2027-01-31T12:00:00.000000Z"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


@pytest.mark.parametrize("cursor", [None, pages.encode([NOW, 7])])
@pytest.mark.sqlite("it reads how SQLite would ask")
@pytest.mark.parametrize(
    "wanted", [Filter(), Filter(kind="decision", time_range="24h"), Filter(decision="BLOCKED")]
)
def test_a_page_is_read_along_the_index(world: World, wanted: Filter, cursor: str | None) -> None:
    asked: list[tuple[str, Any]] = []

    def seen(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        asked.append((statement, given))

    with world.state.reader.connect() as connection:
        event.listen(connection, "before_cursor_execute", seen)
        traces.listed(connection, world.project_id, wanted, NOW, cursor, 50)
        plans = [
            [str(row.detail) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {s}", g)]
            for s, g in list(asked)
        ]
    reach, steps, cold = plans
    assert "SEARCH trace USING COVERING INDEX ix_trace_listed (project_id=?" in reach[0]
    assert "SEARCH trace USING INDEX ix_trace_listed (project_id=?" in steps[0]
    assert "USING INDEX ix_cold_tiles_last_ts" in cold[0]
    # Rows of one microsecond are put in order; never all that fit.
    assert "USE TEMP B-TREE FOR ORDER BY" not in [*reach, *steps, *cold]


def test_what_hardly_fits_is_looked_for_a_bounded_way_back_and_then_further(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "REACH", 10)
    drafts = [
        Draft("decision", f"trc_{n}", world.project_id, {"tool": "rare" if n % 12 == 0 else "t"})
        for n in range(36)
    ]
    world.state.writer.change_now(lambda c: len(world.state.log.append(c, drafts)))
    found: list[list[str]] = []
    cursor: str | None = None
    with world.state.reader.connect() as connection:
        while cursor is not None or not found:
            wanted = Filter(tool="rare", kind="decision")
            page = traces.listed(connection, world.project_id, wanted, NOW, cursor, 50)
            found.append([row.id for row in page.items])
            cursor = page.next_cursor
    assert [one for part in found for one in part] == ["trc_24", "trc_12", "trc_0"]
    assert len(found) > 3
