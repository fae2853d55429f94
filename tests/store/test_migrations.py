"""The migrations make what the tables say, from any version, and refuse a newer database."""

from pathlib import Path

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

from gateway.store import migrations
from gateway.store.database import writing_engine
from gateway.store.tables import metadata


def _schema(engine: Engine) -> dict[str, str]:
    """Every CREATE statement as the database keeps it, with spaces made one."""
    query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    with engine.connect() as connection:
        rows = connection.execute(text(query)).all()
    return {name: " ".join(sorted(sql.replace(",", " ").split())) for name, sql in rows}


def test_migrations_and_tables_agree(tmp_path: Path) -> None:
    migrated = writing_engine(tmp_path / "migrated.db")
    migrations.upgrade(migrated)
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    # compare_metadata sees neither WITHOUT ROWID nor primary keys.
    direct = create_engine("sqlite://")
    metadata.create_all(direct)
    schema = _schema(migrated)
    schema.pop("alembic_version")
    assert schema == _schema(direct)
    migrated.dispose()
    direct.dispose()


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
    engine = writing_engine(tmp_path / "gateway.db")

    migrate = alembic.command.upgrade

    def fail(config: Config, to: str) -> None:
        migrate(config, to)
        raise RuntimeError("power cut")

    monkeypatch.setattr("alembic.command.upgrade", fail)
    with pytest.raises(RuntimeError):
        migrations.upgrade(engine)
    assert _schema(engine) == {}
    engine.dispose()


def test_the_scripts_are_part_of_the_package() -> None:
    folder = Path(migrations.__file__).parent
    assert (folder / "env.py").is_file()
    assert (folder / "script.py.mako").is_file()
    assert sorted(folder.glob("versions/*.py"))
