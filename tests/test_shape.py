"""The picture of the package, kept: who imports whom, how large things are, what is rare."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"
FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if "migrations" not in path.parts or "versions" not in path.parts
)

# From what is told last to what is told first: a module imports from its own line or from below.
LAYERS = (
    ("cli", "__main__", "client"),
    ("commands",),
    ("demo", "configuration"),
    ("app",),
    ("assembly", "background", "data_dir", "in_band.task_runs"),
    ("telemetry.exposition", "telemetry.metrics"),
    ("api", "dashboard", "extensions", "dry_run", "mcp.proxy", "mcp.scan", "scans"),
    ("pipeline", "what_if"),
    ("background.following", "background.takeover"),
    ("data_dir.state", "notifications"),
    (
        *("steps", "admission", "settlement", "records.refused_calls", "extensions.reports"),
        *("in_band", "answers", "mcp.relay", "mcp.conversation"),
    ),
    ("mcp",),
    ("anchors", "sinks"),
    ("registry", "policy", "trace", "cold", "budgets", "background.budget_alerts", "records"),
    ("egress", "edge", "listeners"),
    ("telemetry.otlp",),
    ("telemetry.tracing",),
    ("store", "http1"),
    ("mcp.arguments", "mcp.digests", "mcp.envelope", "mcp.param_headers", "mcp.schema_checks"),
    ("mcp.routing",),
    ("mcp.strictness", "mcp.folding", "mcp.lossless", "mcp.schema_document"),
    ("settings", "telemetry"),
    ("records.outcome",),
    (
        *("values", "event", "flows", "rounds", "oauth", "refusals"),
        *("frozen", "ids", "clock", "amounts", "durable", "assets", "keyring", "database_place"),
    ),
)
MOST_LINES = 500
MOST_LINES_OF_A_FUNCTION = 60
MAY_CATCH_EVERYTHING = {"pipeline.py", "store/writer.py"}
TOP_LEVEL = {
    *(".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md"),
    *("SECURITY.md", "alembic.ini"),
    *("benchmarks", "bundles", "connector_templates", "deploy", "docs", "gateway", "rego", "tests"),
    *("opa-config.yaml", "pyproject.toml", "requirements.lock", "requirements-dev.lock"),
    "requirements-fuzz.lock",
}


def name_of(path: Path) -> str:
    """``gateway/steps/budget.py`` is ``steps.budget``, and a folder's ``__init__`` the folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Each imported module by its full name, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("gateway.") in MODULES
                yield node.lineno, inner if is_module else str(node.module)


def layer_of(module: str) -> int | None:
    """The layer of the longest listed name that `module` is, or lies in."""
    words = module.split(".")
    for length in range(len(words), 0, -1):
        name = ".".join(words[:length])
        for number, names in enumerate(LAYERS):
            if name in names:
                return number
    return None


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_module_has_its_place() -> None:
    assert [name for name in MODULES if name and layer_of(name) is None] == []


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_one_way(name: str) -> None:
    layer = layer_of(name)
    assert layer is not None
    upward = [
        f"{where(MODULES[name], line)} imports {imported}"
        for line, imported in imports(MODULES[name])
        if imported.startswith("gateway.")
        and (other := layer_of(imported.removeprefix("gateway."))) is not None
        and other < layer
    ]
    assert upward == []


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("steps", ("steps",)),
        ("trace", ("registry", "policy", "budgets", "steps", "admission")),
        ("policy", ("registry", "trace")),
    ],
)
def test_neighbours_do_not_know_each_other(importer: str, forbidden: tuple[str, ...]) -> None:
    known = [
        f"{where(path, line)} imports {imported}"
        for name, path in MODULES.items()
        if name.startswith(f"{importer}.")
        for line, imported in imports(path)
        if imported.split(".")[:1] == ["gateway"] and imported.split(".")[1:2][0] in forbidden
    ]
    assert known == []


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("opa_client", "policy/probe.py"),
        ("opentelemetry", "telemetry/otlp.py"),
        ("web3", "anchors/chain.py"),
    ],
)
def test_a_library_is_imported_in_one_place(library: str, only: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for _, imported in imports(path)
        if imported.split(".")[0] == library
    }
    assert users <= {only}


def test_mcp_is_only_the_demonstrations_library() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in FILES
        for _, imported in imports(path)
        if imported.split(".")[0] == "mcp"
    }
    assert users == {"demo"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES
    long = [
        f"{where(path, node.lineno)} {node.name}: {length} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []


def test_only_what_refuses_catches_everything() -> None:
    broad = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and _catches_everything(node)
    }
    assert broad <= MAY_CATCH_EVERYTHING


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False  # it tidies up and lets the exception go on
    if handler.type is None:
        return True
    named = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(n, ast.Name) and n.id in ("Exception", "BaseException") for n in named)


def test_only_admission_makes_a_permit() -> None:
    makers = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and _called(node) == "Permit"
    }
    assert makers == {"admission.py"}


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path) for path in FILES if path.stat().st_size > 0 and not ast.get_docstring(tree(path))
    ]
    assert silent == []


def test_no_name_says_nothing() -> None:
    vague = re.compile(r"(util|helper|common|misc|manager|service)s?$")
    named = [name for name in MODULES if any(vague.search(word) for word in name.split("."))]
    assert named == []


def tracked() -> list[str]:
    """The files of the checkout; git is not needed where there is no repository."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the project is not known")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def test_the_top_folder_holds_only_what_belongs_there() -> None:
    assert {name.split("/")[0] for name in tracked()} <= TOP_LEVEL


def test_nothing_names_a_folder_of_one_machine() -> None:
    # Composed, so that this file does not hold what it looks for.
    folders = re.compile(
        "|".join((r"(?<!\w)/work" + "/", "/opt/" + "venv", "/opt/" + "tools", "/home" + "/[a-z]"))
    )
    named = []
    for name in tracked():
        try:
            text = (ROOT / name).read_text()
        except UnicodeDecodeError:
            continue
        named += [f"{name}: {found[0]}" for found in folders.finditer(text)]
    assert named == []
