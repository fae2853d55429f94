"""What fuzzing found, and what it began from, goes on holding; `make fuzz` looks for more."""

import importlib
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.glob("*/*"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_holds(path: Path) -> None:
    importlib.import_module(f"tests.fuzz.{path.parent.name}").one(path.read_bytes())


def test_every_target_has_a_corpus() -> None:
    targets = {path.stem for path in CORPUS.parent.glob("*.py")} - {"__init__", "__main__"}
    targets = {name for name in targets if not name.startswith("test_")}
    assert {path.parent.name for path in FOUND} == targets
