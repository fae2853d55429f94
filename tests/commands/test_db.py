"""`gateway db upgrade`, and `gateway verify db` of a database that is named; `db copy` is in
`tests/data_dir`.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import alembic.command
import pytest

from gateway.database_place import DATABASE, Place, PostgresUrl
from gateway.store import migrations
from gateway.store.database import lock_data_dir, writing_engine
from gateway.store.migrations import scripts
from tests.builders import a_state
from tests.postgresql import a_database
from tests.test_cli import gateway


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield tmp_path / "data" / DATABASE
        return
    with a_database() as url:
        yield url


def _asked(*words: str, folder: Path, place: Place) -> tuple[int, str, str]:
    url = place if isinstance(place, str) else ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEWAY_DATABASE_URL", url)
        told = gateway("db", *words, "--data-dir", folder)
    return told.exit_code, told.stdout, told.stderr


def test_an_earlier_database_is_upgraded_once(tmp_path: Path, place: Place) -> None:
    folder = tmp_path / "data"
    code, _, wrong = _asked("upgrade", folder=folder, place=place)
    assert (code, "run `gateway init` first" in wrong) == (1, True)
    folder.mkdir()
    engine = writing_engine(place)
    with engine.connect() as connection, connection.begin():
        alembic.command.upgrade(scripts.config(connection), "0020")
    engine.dispose()
    newest = migrations.newest()
    code, told, wrong = _asked("upgrade", "--json", folder=folder, place=place)
    assert (code, wrong) == (0, "")
    assert json.loads(told) == {"before": "0020", "now": newest}
    code, told, _ = _asked("upgrade", folder=folder, place=place)
    assert (code, told) == (0, f"The database has schema {newest} already.\n")


@pytest.mark.sqlite("it is about the file")
def test_a_database_of_a_later_gateway_or_in_use_is_left_alone(tmp_path: Path) -> None:
    with a_state(tmp_path / "data"):
        pass
    file = tmp_path / "data" / DATABASE
    lock = lock_data_dir(file.parent)
    code, _, wrong = _asked("upgrade", folder=file.parent, place=file)
    assert (code, "in use by another gateway" in wrong) == (1, True)
    os.close(lock)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, _, wrong = _asked("upgrade", folder=file.parent, place=file)
    assert (code, "schema 9999, which this gateway does not know" in wrong) == (1, True)


def test_a_postgresql_database_is_checked_by_its_url(tmp_path: Path) -> None:
    with a_database() as url:
        with a_state(tmp_path / "data", PostgresUrl(url)):
            pass
        told = gateway("verify", "db", url, "--json")
        assert told.exit_code == 0, told.stderr
        assert json.loads(told.stdout)["verdict"] == "VALID"
    wrong = gateway("verify", "db", "mysql://u:correcthorse@host/name")
    assert wrong.exit_code == 2
    assert "postgresql://" in wrong.stderr
    assert "correcthorse" not in wrong.stderr
    away = gateway("verify", "db", "postgresql://u:correcthorse@127.0.0.1:9/name")
    assert away.exit_code == 3
    assert "correcthorse" not in away.stdout + away.stderr
