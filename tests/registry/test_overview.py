"""What the overview counts: the same however often, and whenever, it was looked at before."""

from pathlib import Path

from sqlalchemy import Connection, insert

from gateway import clock
from gateway.registry.overview import PastHours, summary
from gateway.store import tables
from tests.builders import a_state

PROJECT = "prj_1"
NOON = "2026-06-01T12:00:00.000000Z"
MINUTES = (-1500, -1380, -700, -61, -59, -31, -6, -5, -4, -1, 0, 2, 7, 31, 59, 60, 64)


def test_counting_in_parts_counts_each_call_once(tmp_path: Path) -> None:
    past = PastHours()
    with a_state(tmp_path) as world:
        world.state.writer.change_now(add)
        with world.state.reader.connect() as connection, connection.begin():
            for minutes in (-10, 0, 4, 20, 59, 61, 66, 130):
                now = clock.after(NOON, minutes * 60)
                known = summary(connection, past, PROJECT, now)
                assert known == summary(connection, PastHours(), PROJECT, now)
            late = summary(connection, past, PROJECT, clock.after(NOON, 66 * 60))
    seen = [n for n in MINUTES if -22 * 60 <= n <= 66]
    assert late.calls == len(seen)
    assert late.refused == sum(n % 2 for n in seen)
    assert late.policies == {"no_export": late.refused, "rule:pol_1": late.refused}
    assert sum(hour.total for hour in late.hours) == len(seen)


def add(connection: Connection) -> None:
    """A call at each minute, refused at odd ones."""
    for idx, minutes in enumerate(MINUTES):
        refused = minutes % 2 == 1
        connection.execute(
            insert(tables.trace).values(
                log=9,
                idx=idx,
                id=f"trc_{idx}",
                call_id=f"trc_{idx}",
                project_id=PROJECT,
                pseq=idx,
                ts=clock.after(NOON, minutes * 60),
                kind="decision",
                decision="DENY" if refused else "ALLOW",
                reason_code="policy_denied" if refused else None,
                risk="LOW",
                tool="query",
                policies="\nno_export\nrule:pol_1\n" if refused else "\ngateway.default\n",
                body=b"",
                leaf=b"",
            )
        )
