"""No step can be left out: skip any one of them, and the type checker refuses the file."""

import ast
import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOWS = {
    ("pipeline", "ask"): (
        "call",
        "cleared",
        "pinned",
        "steady",
        "decision",
        "allowed",
        "affordable",
    ),
    ("pipeline", "_carry_out"): (*("approved", "permit", "forwarded", "inspected", "screened"),),
    ("admission", "_admit"): (
        *("group", "unstopped", "authorized", "unchanged", "granted", "held", "decided"),
    ),
}
"""The values of each function in their order, each made by a step out of the one before it."""


@dataclass(frozen=True)
class Mutant:
    name: str
    step: str
    text: str


def called(value: ast.expr | None) -> ast.Call | None:
    inner = value.value if isinstance(value, ast.Await) else value
    return inner if isinstance(inner, ast.Call) else None


def steps(function: ast.AST, values: tuple[str, ...]) -> Iterator[tuple[ast.stmt, str]]:
    """Each statement that makes a value of the flow, or returns the last, and what it needs."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            made = node.targets[0].id
            if made in values[1:]:
                yield node, values[values.index(made) - 1]
        elif isinstance(node, ast.Return) and (call := called(node.value)) is not None:
            names = [arg.id for arg in call.args if isinstance(arg, ast.Name)]
            if values[-1] in names:
                yield node, values[-1]


def mutants() -> Iterator[Mutant]:
    for (module, function_name), values in FLOWS.items():
        tree = ast.parse((ROOT / "gateway" / f"{module}.py").read_text())
        (function,) = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == function_name
        ]
        found = list(steps(function, values))
        assert len(found) == len(values), f"{module}.{function_name} is not as it was"
        for number, (statement, before) in enumerate(found):
            assert isinstance(statement, ast.Assign | ast.Return)
            step, value = ast.unparse(statement), copy.copy(statement.value)
            statement.value = ast.Name(before, ast.Load())
            yield Mutant(f"{module}_{function_name.strip('_')}_{number}", step, ast.unparse(tree))
            statement.value = value


def test_the_type_checker_refuses_the_pipeline_and_admission_without_any_one_step(
    tmp_path: Path,
) -> None:
    """All mutants are modules of one copy of the package, so that one run checks them all."""
    package = tmp_path / "gateway"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gateway", package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    made = list(mutants())
    for mutant in made:
        (package / f"{mutant.name}.py").write_text(mutant.text)
    for module in ("pipeline", "admission"):  # what is whole passes, also once it was unparsed
        whole = ast.unparse(ast.parse((package / f"{module}.py").read_text()))
        (package / f"whole_{module}.py").write_text(whole)
    names = [*(mutant.name for mutant in made), "whole_pipeline", "whole_admission"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary"]
        + ["--cache-dir", str(tmp_path / "cache"), *(f"gateway/{name}.py" for name in names)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    faults = [line.partition(": ") for line in checked.stdout.splitlines() if ": error: " in line]
    refused = {Path(place.partition(":")[0]).stem: what for place, _, what in faults}
    assert len(made) == 19, [mutant.step for mutant in made]
    assert [mutant.step for mutant in made if mutant.name not in refused] == []
    assert refused.keys() == {mutant.name for mutant in made}, checked.stdout + checked.stderr
    assert {what.rpartition("[")[2] for what in refused.values()} <= {"arg-type]", "return-value]"}
