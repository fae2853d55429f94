"""A whole database, read again: what was edited in the file itself is named."""

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.database_place import Place
from gateway.store.database import reading_engine, writing_engine
from gateway.trace.note import VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.verdicts import Check
from tests.builders import a_state
from tests.places import place_of
from tests.trace.evidence_world import append, sign


@pytest.fixture
def database(tmp_path: Path) -> tuple[Place, VerifierKey]:
    """620 records of two projects with two tiles and two checkpoints, closed."""
    with a_state(tmp_path) as world:
        append(world, 150, input=b"{}")
        sign(world)
        append(world, 160)
        world.state.writer.change_now(lambda c: world.state.checkpoints.make(c, keep=True))
        key = VerifierKey.parse(world.state.checkpoints.verifier_key)
    return place_of(tmp_path), key


def checks(place: Place, key: VerifierKey | None) -> dict[str, Check]:
    engine = reading_engine(place)
    seen: list[tuple[int, int]] = []
    with engine.connect() as connection, connection.begin():
        found = recheck(connection, key, lambda done, of: seen.append((done, of)))
    engine.dispose()
    assert seen
    return {check.name: check for check in found}


def failing(place: Place, key: VerifierKey | None) -> set[str]:
    return {name for name, check in checks(place, key).items() if check.status == "FAIL"}


def test_what_nobody_touched_is_as_it_was_hashed(database: tuple[Place, VerifierKey]) -> None:
    found = checks(*database)
    assert {check.status for check in found.values()} == {"PASS"}
    assert found["records.hash"].detail == "620 records are what was hashed"
    assert found["project.sequence"].detail == "2 projects, no gap"
    assert "NOT CHECKED" in checks(database[0], None)["checkpoints"].detail


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        (
            "UPDATE trace SET body = :denied WHERE idx = 20",
            "records.hash records.columns",
        ),
        ("UPDATE trace SET decision = 'DENY' WHERE idx = 20", "records.columns"),
        ("UPDATE trace SET ts = '2020' WHERE idx = 20", "records.columns"),
        ("UPDATE trace SET leaf = :zeros WHERE idx = 20", "records.hash tree.tiles"),
        ("DELETE FROM trace WHERE idx = 20", "records.index project.sequence tree.tiles"),
        ("DELETE FROM trace WHERE idx >= 400", "checkpoints tree.tiles"),
        ("UPDATE tree_tiles SET hash = :zeros WHERE n = 1", "tree.tiles"),
        ("DELETE FROM tree_tiles WHERE n = 1", "tree.tiles"),
        ("INSERT INTO tree_tiles VALUES (0, 1, 9, :zeros)", "tree.tiles"),
        ("UPDATE checkpoints SET root = :zeros", "checkpoints"),
        ("UPDATE checkpoints SET note = replace(note, '620', '619')", "checkpoints"),
        ("UPDATE trace SET body = :zero WHERE idx = 20", "records.hash records.form"),
    ],
)
def test_an_edit_of_the_database_is_named(
    database: tuple[Place, VerifierKey], sql: str, named: str
) -> None:
    place, key = database
    engine = writing_engine(place)
    with engine.connect() as connection, connection.begin():
        body = connection.scalar(text("SELECT body FROM trace WHERE idx = 20"))
        denied = body.replace(b"ALLOW", b"DENY")
        assert denied != body
        values = {"denied": denied, "zero": b"\0", "zeros": bytes(32)}
        used = {name: value for name, value in values.items() if re.search(rf":{name}\b", sql)}
        connection.execute(text(sql), used)
    engine.dispose()
    assert set(named.split()) <= failing(place, key)
    assert failing(place, key) <= {*named.split(), "checkpoints", "project.sequence"}
