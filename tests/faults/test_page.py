"""The page of failure modes is what the tests say of themselves."""

import importlib
from pathlib import Path

from tests.faults import table

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "failure-modes.md"


def loaded_page() -> str:
    for path in sorted(HERE.glob("test_*.py")):
        importlib.import_module(f"tests.faults.{path.stem}")
    return table.page()


def test_the_page_is_current() -> None:
    written = "write it anew: python -m tests.faults > docs/failure-modes.md"
    assert PAGE.read_text() == loaded_page(), written
