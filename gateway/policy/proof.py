"""Proves a bundle before it may serve: checked, loaded from its own bytes, asked, tested."""

import hashlib
import itertools
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from gateway.frozen import frozen
from gateway.policy import modules, smoke
from gateway.policy.argument_schemas import schema_folder
from gateway.policy.modules import Module
from gateway.policy.opa_binary import OPA_VERSION
from gateway.policy.sources import BundleFault, Tree

_SECONDS = 120
_MOST_CHANGED = 50
"""Files; beyond, it costs more to find out which tests to run than to run them all."""
_ENVIRONMENT = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}
"""A process that lives for a tenth of a second spends half of it collecting garbage."""
_TEST = re.compile(r"^(test_\w+)", re.M)
_COMPLAINT = re.compile(r"^(?:.*?: )??([^\s:]+\.rego):(\d+): (.+)$", re.M)


class Dropped(Exception):
    """The sources changed while they were tried; what was found out is of no use."""


@frozen
class Covered:
    """One file: how much of it tests reached, and the lines that none did."""

    percent: float
    missed: frozenset[int]


class Commands:
    """Runs OPA's subcommands; `drop` ends them.

    In the background they run below everything that answers calls.
    """

    def __init__(self, opa: Path, *, background: bool = False) -> None:
        self.opa = opa
        nice = shutil.which("nice") if background else None
        self._prefix = [nice, "-n", "10"] if nice else []
        self._running: set[subprocess.Popen[bytes]] = set()
        self._door = threading.Lock()
        self._closed = False
        self.dropped = False

    def run(
        self, *arguments: str | Path, folder: Path, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run one in a folder, with an empty environment. Raises `Dropped`, `BundleFault`."""
        command = [*self._prefix, self.opa, *arguments]
        with self._start(command, folder) as process:
            try:
                out, error = process.communicate(stdin, timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise BundleFault(f"opa {arguments[0]} took over {_SECONDS} s") from None
            finally:
                with self._door:
                    self._running.discard(process)
        if self._closed:
            raise Dropped
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    def drop(self) -> None:
        """What these commands would find out is of no use any more."""
        self.dropped = True
        self.close()

    def close(self) -> None:
        """End what runs and begin nothing more."""
        with self._door:
            self._closed = True
            for process in self._running:
                process.kill()

    def _start(self, command: list[str | Path], folder: Path) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        with self._door:
            if self._closed:
                raise Dropped
            try:
                process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=pipe, env=_ENVIRONMENT, cwd=folder
                )
            except OSError as error:
                raise BundleFault(f"cannot run {self.opa}: {error}") from error
            self._running.add(process)
        return process


def read_modules(tree: Tree) -> dict[str, Module]:
    """Every Rego file by its path in the archive, each package under its own source's root.

    Raises `BundleFault`: a folder could otherwise replace the router.
    """
    found: dict[str, Module] = {}
    for path, content in itertools.chain(tree.files.items(), tree.tests.items()):
        if not path.endswith(".rego"):
            continue
        module = modules.read(content.decode("utf-8", "replace"))
        if module is None:
            wrong = "must begin with a package, such as `package policies.all.x`, on one line"
            raise BundleFault(wrong, tree.real(path), 1)
        source = tree.origins[path]
        if path in tree.files and module.package[: len(source.root)] != source.root:
            package, root = ".".join(module.package), ".".join(source.root)
            wrong = f"package {package} is outside {root}, the only root that this folder may fill"
            raise BundleFault(wrong, tree.real(path), 1)
        found[path] = module
    return found


def try_all(commands: Commands, archive: bytes, tree: Tree, rego: Path, since: Tree | None) -> None:
    """`prove` and `test` side by side. Raises `BundleFault`, `Dropped`."""
    first, *others = suites(tree, since) or [frozenset()]
    with ThreadPoolExecutor(1) as pool:
        testing = pool.submit(run_tests, commands, tree, first)
        try:
            prove(commands, archive, tree, rego)
            for suite in others:  # beside the first, which takes the longest
                run_tests(commands, tree, suite)
        except BundleFault:
            commands.close()
            raise
        testing.result()


def prove(commands: Commands, archive: bytes, tree: Tree, rego: Path) -> None:
    """Check and load the very bytes that will be served, and ask them smoke questions.

    One process does it all, because compiling is what takes the time. `rego` holds ``schemas/``
    and ``capabilities.json``. Raises `BundleFault`.
    """
    questions = smoke.questions(module.package for module in read_modules(tree).values())
    with tempfile.TemporaryDirectory(prefix="gateway-bundle-") as aside:
        Path(aside, "bundle.tar.gz").write_bytes(archive)
        done = commands.run(
            *("eval", "--bundle", "bundle.tar.gz", "--strict", "--strict-builtin-errors"),
            *(
                "--schema",
                schema_folder(rego, tree.schemas, Path(aside)),
                "--capabilities",
                rego / "capabilities.json",
            ),
            *("--format", "json", "--stdin-input", smoke.QUERY),
            folder=Path(aside),
            stdin=orjson.dumps(questions),
        )
    document = _json(done)
    if done.returncode != 0:
        raise _compile_fault(document, done, tree)
    if complaint := smoke.complaint(questions, document["result"][0]["bindings"]["answers"]):
        raise BundleFault(complaint)


def suites(tree: Tree, since: Tree | None) -> list[Set[str]]:
    """The files of each run of the tests that a change since another tree may have broken.

    Those are all of them when there is no other tree, or data or what all policies share has
    changed; else the tests of the changed policies, beside them, and of their importers. What is
    shared is tested by itself: a policy may well change what the router answers.
    Raises `BundleFault`.
    """
    found = read_modules(tree)
    own = {name for name in found if _is_policy(name, tree)}
    changed = set() if since is None else _changed(tree, since)
    everything = since is None or not all(
        _is_policy(n, tree) or _is_policy(n, since) for n in changed
    )
    if since is None or everything or len(changed) > _MOST_CHANGED:
        chosen = own & tree.tests.keys()
    else:
        chosen = _affected(changed, found, tree, since)
    runs: list[Set[str]] = [found.keys() - own] if everything else []
    if chosen:
        shared_tests = tree.tests.keys() - own
        runs.append(modules.needed(chosen, found) - shared_tests)
    return runs


def run_tests(commands: Commands, tree: Tree, names: Set[str]) -> None:
    """The tests among these files; without any, there is nothing to find out.

    Raises `BundleFault`, `Dropped`.
    """
    if not names:
        return
    done = _opa_test(commands, tree, names)
    if done.returncode == 0:
        return
    results = _json(done)
    if not isinstance(results, list):
        raise _compile_fault(results, done, tree)
    raise _test_fault(results, tree)


def _opa_test(
    commands: Commands, tree: Tree, names: Set[str], *options: str
) -> "subprocess.CompletedProcess[bytes]":
    data = tree.tests["data.json"]
    if not any(_is_policy(name, tree) for name in names):
        document = orjson.loads(data)
        document.pop("policies", None)
        data = orjson.dumps(document)
    with tempfile.TemporaryDirectory(prefix="gateway-tests-") as aside:
        folder = Path(aside)
        for name in names:
            _write(folder / name, tree.tests[name] if name in tree.tests else tree.files[name])
        _write(folder / "data.json", data)
        # A folder and no bundle, which OPA would compile twice: a tenth of what all tests take.
        # OPA gives each test 5 s, which a busy machine may well need.
        words = ("test", ".", "--format", "json", "--timeout", f"{_SECONDS}s")
        return commands.run(*words, *options, folder=folder)


def coverage(commands: Commands, tree: Tree) -> dict[str, Covered]:
    """How far every test together reaches, by file. Raises `BundleFault`, `Dropped`.

    As `test` has it: what is shared by its own tests, policies by theirs.
    """
    found = read_modules(tree)
    own = {name for name in found if _is_policy(name, tree)}
    reached: dict[str, Covered] = {}
    for names, told in (
        (found.keys() - own, found.keys() - own),
        (own | (found.keys() - tree.tests.keys()), own),
    ):
        if not names & tree.tests.keys():
            continue
        done = _opa_test(commands, tree, names, "--coverage")
        document = _json(done)
        if not isinstance(document, dict) or "files" not in document:
            said = done.stderr.decode(errors="replace").strip() or "a test fails"
            raise BundleFault(f"opa test told no coverage: {said}")
        files = {path.lstrip("/"): lines for path, lines in document["files"].items()}
        for name in told - tree.tests.keys():
            reached[name] = _covered(files.get(name, {}))
    return reached


def tests_by_folder(tree: Tree) -> dict[str, tuple[str, ...]]:
    """The names of the tests, by the folder in the archive that holds them."""
    found: dict[str, tuple[str, ...]] = {}
    for path, content in tree.tests.items():
        if path.endswith(".rego"):
            names = tuple(_TEST.findall(content.decode("utf-8", "replace")))
            found[_folder(path)] = found.get(_folder(path), ()) + names
    return found


def _covered(lines: Mapping[str, Any]) -> Covered:
    missed = (
        line
        for part in lines.get("not_covered", ())
        for line in range(part["start"]["row"], part["end"]["row"] + 1)
    )
    return Covered(float(lines.get("coverage", 0)), frozenset(missed))


def _changed(tree: Tree, since: Tree) -> set[str]:
    now, then = {**tree.files, **tree.tests}, {**since.files, **since.tests}
    return {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}


def _is_policy(name: str, tree: Tree) -> bool:
    """Whether it is Rego of the organisation's, which nothing reads without naming it."""
    source = tree.origins.get(name)
    return source is not None and source.root[0] == "policies"


def _affected(changed: set[str], found: Mapping[str, Module], tree: Tree, since: Tree) -> set[str]:
    gone = {n: m for n, m in read_modules(since).items() if n in changed}
    packages = {m.package for n, m in [*found.items(), *gone.items()] if n in changed}
    # The router asks for every policy by its route, and is about no one of them.
    asking = {n: m for n, m in found.items() if tree.origins[n].root != ("gateway",)}
    reached = modules.importers(packages, asking)
    folders = {_folder(name) for name in changed}
    tests = {name for name in tree.tests if _is_policy(name, tree)}
    return {name for name in tests if name in reached or _folder(name) in folders}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _json(done: "subprocess.CompletedProcess[bytes]") -> Any:
    try:
        return orjson.loads(done.stdout)
    except ValueError:
        return {}


def _compile_fault(
    document: Any, done: "subprocess.CompletedProcess[bytes]", tree: Tree
) -> BundleFault:
    """OPA's first complaint: an error in JSON with its place, or a line of text that names one."""
    errors = document.get("errors") or [{"message": done.stderr.decode(errors="replace").strip()}]
    first = errors[0]
    place = first.get("location") or {}
    file, row, reason = place.get("file", ""), place.get("row", 0), str(first["message"])
    if not file and (named := _COMPLAINT.search(reason)):
        file, row, reason = named[1], int(named[2]), named[3]
    elif first.get("code"):
        reason = f"{first['code']}: {reason}"
    return BundleFault(reason, tree.real(str(file).lstrip("/")), int(row))


def _test_fault(results: list[Any], tree: Tree) -> BundleFault:
    failed = [r for r in results if r.get("fail") or r.get("error")]
    if not failed:
        return BundleFault("opa test failed and named no test")
    first, more = failed[0], len(failed) - 1
    reason = f"{first['package'].removeprefix('data.')}.{first['name']} fails"
    if error := first.get("error"):
        reason += f": {error.get('message', error) if isinstance(error, dict) else error}"
    if more:
        reason += f", and {more} more"
    place = first.get("location") or {}
    return BundleFault(reason, tree.real(str(place.get("file", ""))), int(place.get("row", 0)))


def names(tree: Tree, rego: Path) -> tuple[str, str]:
    """The fingerprints of what every policy is tried with, and of that and the policies."""
    schemas = {f"schemas/{name}": content for name, content in tree.schemas.items()}
    shared = _fingerprint({**_shared_files(rego), **schemas}, OPA_VERSION)
    return shared, _fingerprint(tree.files, _fingerprint(tree.tests, shared))


def is_proved(proved: Path | None, tried: str) -> bool:
    """Whether an installation marked these very sources."""
    return proved is not None and (proved / tried).exists()


def _shared_files(rego: Path) -> dict[str, bytes]:
    paths = [rego / "capabilities.json", *sorted((rego / "schemas").rglob("*.json"))]
    try:
        return {str(path.relative_to(rego)): path.read_bytes() for path in paths}
    except OSError as error:
        raise BundleFault(f"cannot be read: {error.strerror}", error.filename or "") from None


def _fingerprint(files: Mapping[str, bytes], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()
