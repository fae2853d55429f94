"""The pages name everything that there is, and nothing that there is not."""

import re
from pathlib import Path

import pytest

from gateway import cli
from gateway.api.routes import ROUTES
from gateway.refusals import REASONS
from gateway.settings import Settings
from tests.test_cli import every_command

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_every_route_is_in_the_docs_as_it_is_and_no_other() -> None:
    rows = re.findall(
        r"^\| `((?:GET|POST|PATCH|PUT|DELETE) /\S*)` \| (.*) \| (.*) \|$", page("api.md"), re.M
    )
    there = [(f"{r.method} {r.path}", r.summary, ", ".join(sorted(r.roles))) for r in ROUTES]
    assert rows == there


def test_every_refusal_is_in_the_docs_as_it_is_and_no_other() -> None:
    rows = re.findall(r"^\| `(-\d+)` \| `(\w+)` \| (.*) \| (.*) \|$", page("concepts.md"), re.M)
    there = [
        (str(reason.code), name, reason.retryable.replace("_", " "), reason.message)
        for name, reason in REASONS.items()
    ]
    assert rows == there


def test_every_refusal_is_in_the_tree_at_the_head_of_the_table() -> None:
    drawing = (ROOT / "gateway" / "refusals.py").read_text().split('"""')[1].split("::\n")[1]
    code, drawn = 0, set()
    for line in re.sub(r"\(.*?\)|[│├└─]", "", drawing).splitlines():
        if begins := re.match(r" *(-\d{5}) \w+ ", line):
            code, line = int(begins[1]), line[begins.end() :]
        drawn |= {(name, code) for name in re.findall(r"\w+", line) if code}
    assert drawn == {(name, reason.code) for name, reason in REASONS.items()}


def test_every_command_is_in_the_docs_and_no_other() -> None:
    rows = re.findall(r"^\| `gateway ([a-z -]+)` \|", page("cli.md"), re.M)
    assert rows == [" ".join(words) for words in every_command()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_only_settings_and_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    settings = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", text)) <= settings
    commands = set(re.findall(r"`gateway ([a-z]+)", text))
    commands |= set(re.findall(r"^gateway ([a-z]+)", text, re.M))
    assert commands <= set(cli.COMMANDS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text())
    inside = [target for target in targets if "://" not in target]
    assert [target for target in inside if not (path.parent / target).exists()] == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:3]) for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_map_of_the_code_has_everything_once_and_nothing_else() -> None:
    drawn = page("code.md").partition("gateway/\n")[2].partition("\nrego/")[0]
    lines = re.findall(r"^  ((?:[a-z0-9_]+(?:\.py|/) ?)+)", drawn, re.M)
    package = ROOT / "gateway"
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    folders = [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert sorted(" ".join(lines).split()) == sorted([*modules, *folders])
