"""Tasks in the database, on each kind of it: one claim, by whoever comes first."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Row, insert, select

from gateway.database_place import Place
from gateway.registry import tasks
from gateway.registry.tasks import End, NewTask
from gateway.store import migrations, tables
from gateway.store.database import writing_engine
from gateway.values import ProjectId

NOW, SOON, LATER = (f"2026-01-31T12:0{minute}:00.000000Z" for minute in (0, 1, 5))
UNKNOWN = End("FAILED", "nobody knows", b"sealed")


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    made = writing_engine(place)
    migrations.upgrade(made)
    with made.begin() as connection:
        values = {"id": "prj_1", "slug": "acme", "name": "Acme", "created_at": NOW}
        values |= {"default_action": "ALLOW", "enforcement": "enforce", "deny_style": "error"}
        values |= {"on_tool_change": "block", "unknown_tools": "deny", "record_inputs": "all"}
        settings = {"key_approvers": False, "approval_ttl_seconds": 1800, "retention_days": 30}
        connection.execute(insert(tables.projects).values(**values, **settings))
    yield made
    made.dispose()


def approval(connection: Connection, state: str = "APPROVED") -> None:
    texts = ("key_id", "server_id", "tool_name", "definition_sha256", "digest", "risk", "reason")
    values: dict[str, Any] = dict.fromkeys(texts, "x")
    values |= {"id": "apr_1", "project_id": "prj_1", "server_revision": 1, "policy_ids": []}
    values |= {"call_sealed": b"x", "trace_id": "trc_1", "state": state}
    values |= {"created_at": NOW, "expires_at": LATER}
    connection.execute(insert(tables.approvals).values(**values))


def a_task(connection: Connection, **changes: Any) -> Row[Any]:
    values: dict[str, Any] = {"id": "tsk_1", "project_id": ProjectId("prj_1"), "key_id": "key_1"}
    values |= {"server_id": "srv_1", "approval_id": "apr_1", "approval_expires_at": LATER}
    values |= {"trace_id": "trc_1", "request_sealed": b"sealed", "told": "waits"}
    return tasks.begin(connection, NewTask(**values | changes), NOW)


def test_the_same_call_of_the_same_key_is_the_one_task(engine: Engine) -> None:
    with engine.begin() as connection:
        approval(connection, "PENDING")
        assert a_task(connection).id == a_task(connection, id="tsk_2").id == "tsk_1"
        assert a_task(connection, id="tsk_3", key_id="key_2").id == "tsk_3"
        assert tasks.due(connection, NOW, 10) == []
        found = tasks.find(connection, "prj_1", "tsk_1", NOW)
        assert found is not None
        assert found.approval_state == "PENDING"
        assert tasks.find(connection, "prj_2", "tsk_1", NOW) is None


def test_of_many_that_claim_a_task_one_has_it(engine: Engine, place: Place) -> None:
    with engine.begin() as connection:
        approval(connection)
        a_task(connection)
        (row,) = tasks.due(connection, NOW, 10)

    def claim(owner: int) -> bool:
        own = writing_engine(place)  # on SQLite an engine is one connection, for one writer
        with own.begin() as connection:
            mine = tasks.claim(connection, row, str(owner), f"trc_{owner}", SOON)
        own.dispose()
        return mine is not None

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(claim, range(8))) == 1
    with engine.begin() as connection:
        assert tasks.due(connection, NOW, 10) == []
        assert [one.state for one in tasks.due(connection, LATER, 10)] == ["RUNNING"]


@pytest.mark.parametrize("admitted", [True, False])
def test_a_lapsed_lease_is_taken_over_by_what_the_trace_says(
    engine: Engine, admitted: bool
) -> None:
    with engine.begin() as connection:
        approval(connection)
        (row,) = [a_task(connection)]
        assert tasks.claim(connection, row, "one", "trc_2", SOON) is not None
        record: dict[str, Any] = {"log": 0, "idx": 0, "id": "trc_2", "call_id": "trc_2"}
        record |= {"project_id": "prj_1", "pseq": 0, "ts": NOW, "kind": "decision"}
        record |= {"reason_code": None if admitted else "policy_denied", "body": b"", "leaf": b""}
        connection.execute(insert(tables.trace).values(**record))
        assert tasks.renew(connection, "one", ["tsk_1"], SOON) == {"tsk_1"}
        assert tasks.renew(connection, "two", ["tsk_1"], SOON) == set()
        lapsed = connection.execute(select(tables.tasks)).one()
        tasks.take_over(connection, lapsed, LATER, UNKNOWN)
        state = connection.execute(select(tables.tasks.c.state)).scalar_one()
        assert state == ("FAILED" if admitted else "WAITING")
        # Whoever had it comes too late with whatever it found.
        assert not tasks.end(connection, "tsk_1", "one", End("COMPLETED", "done"), LATER)


def test_rounds_are_counted_and_each_is_answered_once(engine: Engine) -> None:
    with engine.begin() as connection:
        approval(connection)
        row = a_task(connection)
        for round_ in (1, 2):
            claimed = tasks.claim(connection, row, "one", f"trc_{round_}", SOON)
            assert claimed is not None
            assert tasks.end(connection, "tsk_1", "one", End("ASKING", "?", b"asked"), NOW)
            asking = connection.execute(select(tables.tasks)).one()
            assert asking.round == round_
            assert tasks.answered(connection, asking, b"answers", NOW)
            assert not tasks.answered(connection, asking, b"answers", NOW)
            (row,) = tasks.due(connection, NOW, 10)


def test_what_voids_an_approval_cancels_what_waits_for_it(engine: Engine) -> None:
    with engine.begin() as connection:
        approval(connection)
        a_task(connection)
        ids = select(tables.approvals.c.id)
        assert tasks.cancel(connection, tasks.of_approvals(ids), "stopped", NOW) == 1
        assert tasks.cancel(connection, tasks.of_approvals(ids), "stopped", NOW) == 0
        assert tasks.due(connection, NOW, 10) == []
        assert tasks.forget(connection, NOW) == 0
        assert tasks.forget(connection, "2026-01-31T14:00:00.000000Z") == 1
