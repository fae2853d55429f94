"""Tests policy folders: their `*_test.rego`, and their samples through the whole router."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from gateway import assets
from gateway.frozen import frozen
from gateway.policy.argument_schemas import schema_folder
from gateway.policy.bundles import build_bundle
from gateway.policy.check import rego_files, with_folders
from gateway.policy.opa_command import run_opa
from gateway.policy.scratch import Tried, decide_all
from gateway.policy.sources import BundleFault, Source, compose

_OPA_SECONDS = 300
_KEY = bytes(32)
"""Nothing that is built to be tested is served."""
SAMPLE = "sample.json"


@frozen
class Covered:
    """A file's lines that a test reached, of those that could be."""

    file: str
    percent: float
    missed: tuple[int, ...]


@frozen
class Report:
    passed: int
    """Tests and samples."""
    failures: tuple[str, ...]
    """A line for each: where, what, and what was expected."""
    coverage: tuple[Covered, ...] = ()

    @property
    def percent(self) -> float:
        """The least covered file's: one that nobody tests must not hide behind the others."""
        return min((file.percent for file in self.coverage), default=100.0)


def run_tests(folders: Sequence[Path], opa: Path, *, coverage: bool = False) -> Report:
    """Run every test and every ``sample.json`` of these folders. Raises `BundleFault`."""
    sources, asked = with_folders(folders)
    originals: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="gateway-test-") as aside,
        tempfile.TemporaryDirectory(prefix="gateway-test-") as beside,
    ):
        folder = Path(aside)
        tree = compose(sources, opa)
        for name, content in tree.files.items():
            _put(folder / name, content)
        for source in asked:
            for path in rego_files(source):
                inside = f"{source.name}/{path.relative_to(source.folder).as_posix()}"
                originals[inside] = str(path)
                _put(folder / inside, path.read_bytes())
        _put(folder / ".manifest", orjson.dumps({"roots": [""], "rego_version": 2}))
        schemas = schema_folder(assets.asset("rego"), tree.schemas, Path(beside))
        tests = _opa(opa, folder, schemas, "--format", "json")
        failures = _failures(tests, originals)
        covered: tuple[Covered, ...] = ()
        if coverage and not failures:
            report = _opa(opa, folder, schemas, "--coverage", "--format", "json")
            covered = _coverage(report.get("files", {}), originals)
    samples, wrong = _samples(sources, asked, opa)
    passed = len(tests) - len(failures) + samples - len(wrong)
    return Report(passed, (*failures, *wrong), covered)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _opa(opa: Path, folder: Path, schemas: Path, *options: str) -> Any:
    words = ["test", "--bundle", ".", *options, "--schema", str(schemas)]
    words += ["--capabilities", str(assets.asset("rego") / "capabilities.json")]
    done = run_opa(opa, *words, folder=folder, seconds=_OPA_SECONDS)
    try:
        return orjson.loads(done.stdout)
    except ValueError:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise BundleFault(complaint or f"{opa} test ended with {done.returncode}") from None


def _failures(tests: Sequence[Mapping[str, Any]], originals: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    for test in tests:
        if test.get("fail") or test.get("error"):
            where = test["location"]
            file = originals.get(where["file"].lstrip("/"), where["file"])
            why = test["error"].get("message", "error") if test.get("error") else "failed"
            found.append(f"{file}:{where['row']}: {test['name']}: {why}")
    return tuple(found)


def _coverage(files: Mapping[str, Any], originals: Mapping[str, str]) -> tuple[Covered, ...]:
    found = []
    for inside, original in originals.items():
        if original.endswith("_test.rego"):
            continue
        lines = files.get(inside) or files.get(f"/{inside}") or {}
        missed = [
            line
            for part in lines.get("not_covered", ())
            for line in range(part["start"]["row"], part["end"]["row"] + 1)
        ]
        found.append(Covered(original, float(lines.get("coverage", 0)), tuple(missed)))
    return tuple(found)


def _samples(
    sources: Sequence[Source], asked: Sequence[Source], opa: Path
) -> tuple[int, tuple[str, ...]]:
    """How many samples there are, and a line for each that is decided otherwise."""
    paths = [path for source in asked for path in sorted(source.folder.rglob(SAMPLE))]
    if not paths:
        return 0, ()
    samples = [_sample(path) for path in paths]
    archive = build_bundle(sources, opa=opa, key=_KEY).archive
    questions = [orjson.dumps({"input": sample["input"]}) for sample in samples]
    answers = decide_all(archive, questions, opa)
    judged = zip(paths, samples, answers, strict=True)
    wrong = [f"{path}: {why}" for path, sample, got in judged if (why := _unlike(sample, got))]
    return len(paths), tuple(wrong)


def _sample(path: Path) -> dict[str, Any]:
    try:
        sample = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleFault(f"{path}: {error}") from None
    if isinstance(sample, dict) and isinstance(sample.get("expect"), dict) and "input" in sample:
        return sample
    raise BundleFault(
        f'{path}: a sample is {{"input": {{…}}, "expect": {{"action": …, "policy_ids": […]}}}}'
    )


def _unlike(sample: Mapping[str, Any], got: Tried) -> str:
    """How the decision differs from what the sample expects; empty when it does not."""
    if got.action is None:
        return f"no decision: {got.error}"
    expected = sample["expect"]
    have = {"action": got.action, "policy_ids": list(got.policy_ids)}
    told = [
        f"{name} is {have[name]}, expected {expected[name]}"
        for name in have
        if name in expected and not _within(expected[name], have[name])
    ]
    return "; ".join(told)


def _within(expected: Any, have: Any) -> bool:
    """Other policies may have found the same: the sample names those that must have."""
    if isinstance(expected, list) and isinstance(have, list):
        return all(one in have for one in expected)
    return bool(expected == have)
