"""Fixtures that every test may use."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import certifi
import pytest
from hypothesis import settings

from gateway.database_place import Place
from tests import places

# A machine that is busy with other tests is slow, and that says nothing of what is tested.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each httpx client reads the certificates of all authorities, for a tenth of a second; here
    nobody is asked who has one of theirs.
    """
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(first + end)
    certifi.where = lambda: str(file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is about SQLite itself (``@pytest.mark.sqlite("why")``) is left out on PostgreSQL."""
    for item in items:
        for mark in item.iter_markers("sqlite"):
            [why] = mark.args  # on SQLite, too: who marks a test says why
            if places.shared():
                item.add_marker(pytest.mark.skip(reason=f"of SQLite alone: {why}"))


@pytest.fixture(scope="module", autouse=True)
def places_of_the_module() -> Iterator[None]:
    with places.closing():
        yield


@pytest.fixture(autouse=True)
def places_of_the_test() -> Iterator[None]:
    with places.closing():
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def needs(program: str, how_to_get_it: str) -> str:
    """Return the program's path; without it skip, saying how to get it, or fail when CI is set."""
    found = shutil.which(program)
    if found is not None:
        return found
    missing(f"{program} is missing: {how_to_get_it}")


def missing(message: str) -> NoReturn:
    """Skip for want of a program, or fail when CI is set."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty database of each kind, as `gateway.store.database` opens it."""
    if request.param == "sqlite":
        yield tmp_path / "gateway.db"
        return
    from tests.postgresql import a_database  # noqa: PLC0415 - it needs the driver

    with a_database() as url:
        yield url
