"""A page of traces is read along an index, however many there are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from gateway.registry import pages, traces
from gateway.registry.traces import Filter
from tests.api.world import World, a_world

NOW = "2027-01-31T12:00:00.000000Z"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


@pytest.mark.parametrize("cursor", [None, pages.encode([NOW, 7])])
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
        [(statement, given)] = asked
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
        steps = [str(row.detail) for row in plan]
    assert "SEARCH trace USING INDEX ix_trace_project_id_ts (project_id=?" in steps[0]
    # Rows of one microsecond are put in order; never all that fit.
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps
