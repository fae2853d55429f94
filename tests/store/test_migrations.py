"""The migrations make what the tables say, from any version, and refuse a newer database."""

from pathlib import Path
from typing import Any

import alembic.command
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, Row, inspect, text

from gateway.database_place import Place
from gateway.store import migrations
from gateway.store.database import writing_engine
from gateway.store.migrations import scripts
from gateway.store.tables import metadata

STOP_ALL_GATEWAYS = {"0023": ["sink_cursors has other constraints"]}
"""Migrations before which all gateways of a database have to end. A further one is named in
CHANGELOG.md, in these words; this one came before the first release."""
_SQLITE = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"
_POSTGRESQL = (
    "SELECT 'column', table_name || ' ' || column_name || ' ' || data_type || ' ' || is_nullable"
    " || ' ' || coalesce(column_default, '') || ' ' || coalesce(collation_name, '')"
    " FROM information_schema.columns WHERE table_schema = 'public'"
    " UNION ALL SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'"
    " UNION ALL SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace"
)


def _schema(engine: Engine) -> list[tuple[str, str]]:
    """All that the database keeps of the schema, with spaces made one and in no order."""
    with engine.connect() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        rows = connection.execute(text(_SQLITE if is_sqlite else _POSTGRESQL)).all()
    return sorted((name, " ".join(sorted(sql.replace(",", " ").split()))) for name, sql in rows)


def _content(engine: Engine) -> dict[str, list[Row[Any]]]:
    """Every row there is: no script may bring data that a first start lacks."""
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
        return {name: list(connection.execute(text(f"SELECT * FROM {name}"))) for name in names}


def _migrated(place: Place, to: str = "head") -> Engine:
    """A database that every script up to a version has made."""
    engine = writing_engine(place)
    with engine.connect() as connection, connection.begin():
        alembic.command.upgrade(scripts.config(connection), to)
    return engine


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))


def test_migrations_and_tables_agree(place: Place) -> None:
    migrated = _migrated(place)
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    # compare_metadata sees neither WITHOUT ROWID nor primary keys.
    schema, content = _schema(migrated), _content(migrated)
    _empty(migrated)
    migrations.upgrade(migrated)
    assert _schema(migrated) == schema
    assert _content(migrated) == content
    migrated.dispose()


def test_an_earlier_database_is_brought_to_the_newest_schema(place: Place) -> None:
    engine = _migrated(place, "0001")
    migrations.upgrade(engine)
    with engine.connect() as connection:
        assert migrations.revision(connection) == migrations.newest()
    assert migrations.newest() in scripts.known()
    engine.dispose()


def test_upgrading_twice_changes_nothing(place: Place) -> None:
    engine = writing_engine(place)
    migrations.upgrade(engine)
    before = _schema(engine)
    migrations.upgrade(engine)
    assert _schema(engine) == before
    engine.dispose()


def test_a_database_of_a_later_gateway_is_left_alone(place: Place) -> None:
    engine = writing_engine(place)
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrations.SchemaTooNew, match="9999"):
        migrations.upgrade(engine)
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _migrated(place, "0001")
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
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = writing_engine(place)
    create = metadata.create_all

    def fail(connection: Connection) -> None:
        create(connection)
        raise RuntimeError("power cut")

    monkeypatch.setattr(metadata, "create_all", fail)
    with pytest.raises(RuntimeError):
        migrations.upgrade(engine)
    assert _schema(engine) == []
    engine.dispose()


def _tables(engine: Engine) -> dict[str, Any]:
    """Of each table what somebody who writes to it without knowing more could run into."""
    found = inspect(engine)
    return {
        name: {
            "columns": {
                one["name"]: (str(one["type"]), one["nullable"], one["default"])
                for one in found.get_columns(name)
            },
            "unique": {tuple(one["column_names"]) for one in found.get_unique_constraints(name)}
            | {tuple(o["column_names"]) for o in found.get_indexes(name) if o["unique"]},
            "key": found.get_pk_constraint(name)["constrained_columns"],
            "others": [found.get_foreign_keys(name), found.get_check_constraints(name)],
        }
        for name in found.get_table_names()
    }


def _hinders(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a gateway of the version before can no longer do."""
    faults = [f"{name} is gone" for name in before if name not in after]
    for name in before.keys() & after.keys():
        was, now = before[name]["columns"], after[name]["columns"]
        faults += [f"{name}.{one} is another" for one in was if now.get(one) != was[one]]
        faults += [
            f"{name}.{one} must be given"
            for one, (_, nullable, default) in now.items()
            if one not in was and not nullable and default is None
        ]
        # What leaves a column empty is like no other row.
        news = {one for one in now if one not in was}
        if any(news.isdisjoint(one) for one in after[name]["unique"] - before[name]["unique"]):
            faults.append(f"{name} is unique in another way")
        if any(before[name][what] != after[name][what] for what in ("key", "others")):
            faults.append(f"{name} has other constraints")
    return faults


def test_gateways_of_the_version_before_go_on_after_each_migration(tmp_path: Path) -> None:
    engine = _migrated(tmp_path / "gateway.db", "0001")
    hindered: dict[str, list[str]] = {}
    before = _tables(engine)
    for revision in sorted(scripts.known() - {"0001"}):
        with engine.connect() as connection, connection.begin():
            alembic.command.upgrade(scripts.config(connection), revision)
        after = _tables(engine)
        if faults := _hinders(before, after):
            hindered[revision] = faults
        before = after
    engine.dispose()
    assert hindered == STOP_ALL_GATEWAYS


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
