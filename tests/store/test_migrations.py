"""The migrations make what the tables say, from any version, and refuse a newer database."""

from pathlib import Path
from typing import Any

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, Row, inspect, text

from gateway.store import migrations
from gateway.store.database import writing_engine
from gateway.store.migrations import scripts
from gateway.store.tables import metadata


def _schema(engine: Engine) -> dict[str, str]:
    """Every CREATE statement as the database keeps it, with spaces made one."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    with engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    return {name: " ".join(sorted(sql.replace(",", " ").split())) for name, sql in rows}


def _content(engine: Engine) -> dict[str, list[Row[Any]]]:
    """Every row there is: no script may bring data that a first start lacks."""
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
        return {name: list(connection.execute(text(f"SELECT * FROM {name}"))) for name in names}


def _migrated(path: Path, to: str = "head") -> Engine:
    """A database that every script up to a version has made."""
    engine = writing_engine(path)
    with engine.connect() as connection, connection.begin():
        alembic.command.upgrade(scripts.config(connection), to)
    return engine


def test_migrations_and_tables_agree(tmp_path: Path) -> None:
    migrated = _migrated(tmp_path / "migrated.db")
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    # compare_metadata sees neither WITHOUT ROWID nor primary keys.
    fresh = writing_engine(tmp_path / "fresh.db")
    migrations.upgrade(fresh)
    assert _schema(migrated) == _schema(fresh)
    assert _content(migrated) == _content(fresh)
    migrated.dispose()
    fresh.dispose()


def test_an_earlier_database_is_brought_to_the_newest_schema(tmp_path: Path) -> None:
    engine = _migrated(tmp_path / "gateway.db", "0001")
    migrations.upgrade(engine)
    with engine.connect() as connection:
        assert migrations.revision(connection) == migrations.newest()
    assert migrations.newest() in scripts.known()
    engine.dispose()


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    engine = writing_engine(tmp_path / "gateway.db")
    migrations.upgrade(engine)
    before = _schema(engine)
    migrations.upgrade(engine)
    assert _schema(engine) == before
    engine.dispose()


def test_a_database_of_a_later_gateway_is_left_alone(tmp_path: Path) -> None:
    engine = writing_engine(tmp_path / "gateway.db")
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrations.SchemaTooNew, match="9999"):
        migrations.upgrade(engine)
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _migrated(tmp_path / "gateway.db", "0001")
    before = _schema(engine)
    migrate = alembic.command.upgrade

    def fail(config: Config, to: str) -> None:
        migrate(config, to)
        raise RuntimeError("power cut")

    monkeypatch.setattr("alembic.command.upgrade", fail)
    with pytest.raises(RuntimeError):
        migrations.upgrade(engine)
    assert _schema(engine) == before
    engine.dispose()


def test_a_first_start_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = writing_engine(tmp_path / "gateway.db")
    create = metadata.create_all

    def fail(connection: Connection) -> None:
        create(connection)
        raise RuntimeError("power cut")

    monkeypatch.setattr(metadata, "create_all", fail)
    with pytest.raises(RuntimeError):
        migrations.upgrade(engine)
    assert _schema(engine) == {}
    engine.dispose()


def test_the_policies_of_earlier_records_are_listed_too(tmp_path: Path) -> None:
    engine = _migrated(tmp_path / "gateway.db", "0018")
    row = "INSERT INTO trace (log, idx, id, project_id, pseq, ts, kind, body, leaf) VALUES "
    with engine.begin() as connection:
        for idx, body in enumerate(('{"rules":["a","b"]}', '{"rules":[]}', "{}")):
            values = f"(0, {idx}, 'trc_{idx}', 'prj', {idx}, '2027', 'decision', "
            connection.exec_driver_sql(f"{row}{values}CAST('{body}' AS BLOB), x'00')")
    migrations.upgrade(engine)
    with engine.connect() as connection:
        query = text("SELECT policies FROM trace ORDER BY idx")
        assert connection.execute(query).scalars().all() == ["\na\nb\n", None, None]
    engine.dispose()


def test_the_scripts_are_part_of_the_package() -> None:
    folder = Path(migrations.__file__).parent
    assert (folder / "env.py").is_file()
    assert (folder / "script.py.mako").is_file()
    assert sorted(folder.glob("versions/*.py"))
