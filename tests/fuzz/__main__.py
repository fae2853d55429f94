"""``python -m tests.fuzz TARGET [libFuzzer's options]``: atheris, from the corpus of the target.

What it finds goes to ``dist/fuzz``; what fails there belongs into the corpus once it is mended.
"""

import importlib
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]

target, *options = sys.argv[1:]
read = ["gateway.mcp", "gateway.http1.protocol", "gateway.policy"]
with atheris.instrument_imports(include=read):
    one = importlib.import_module(f"tests.fuzz.{target}").one
found = ROOT / "dist" / "fuzz" / target
found.mkdir(parents=True, exist_ok=True)
places = [
    f"-artifact_prefix={found}.",
    str(found),
    str(ROOT / "tests" / "fuzz" / "corpus" / target),
]
atheris.Setup([sys.argv[0], *options, *places], one)
atheris.Fuzz()
