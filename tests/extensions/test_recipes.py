"""Every JSON of `docs/connectors` is sent through the API, in the page's order."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.api.routes import ROUTES
from tests.api.world import World

pytestmark = pytest.mark.anyio

PAGES = sorted((Path(__file__).parent.parent.parent / "docs" / "connectors").glob("*.md"))
_BLOCK = re.compile(r"(?:^[ ]*<!-- POST (\S+) -->\n)?^([ ]*)```json\n(.*?)^[ ]*```", re.M | re.S)
_APEX = re.compile(r"^```apex\n(.*?)^```", re.M | re.S)
_NO_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|'(?:\\.|[^'\\\n])*'", re.S)
_PAIRS = {")": "(", "]": "[", "}": "{"}
NOT_OURS = {"microsoft-365.md": 1}
"""JSON blocks that are sent to somebody else."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Path and text of each JSON block; an empty path is not sent to us."""
    return [(path, text) for path, _, text in _BLOCK.findall(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_every_json_of_a_recipe_is_what_the_api_takes(world: World, page: Path) -> None:
    known = {f"{route.base}{route.path}".removeprefix("/api/v1") for route in ROUTES}
    made: dict[str, Any] = {}
    trace_id = server = ""
    found = blocks(page)
    assert sum(1 for path, _ in found if not path) == NOT_OURS.get(page.name, 0)
    for path, text in found:
        text = text.replace("<the id from above>", server)
        text = text.replace("<trace_id of the decision>", trace_id)
        text = text.replace("<the extension's key>", made.get("key", ""))
        body = json.loads(text)
        if not path:
            continue
        assert path in known
        is_admins = path in ("/extensions", "/mcp/servers/from-template")
        own = path.replace("{id}", made.get("id", "")).lstrip("/")
        async with world.client() if is_admins else world.client(made["key"]) as client:
            answer = await client.post(own, json=body)
        assert answer.is_success, (path, answer.text)
        said = answer.json()
        if path == "/mcp/servers/from-template":
            server = said["id"]
        elif path == "/extensions":
            made = said
        elif path == "/webhooks/ingest":
            trace_id = said["trace_id"]
        else:
            assert said["errors"] == 0, said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_says_what_it_can_stop_and_what_it_only_records(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"stop", text)
    assert re.search(r"record", text)


def test_the_apex_of_a_recipe_is_whole_and_its_test_class_covers_it() -> None:
    """Nothing compiles Apex without an org: this finds what breaks by hand, not what a type is."""
    page = next(page for page in PAGES if page.name == "salesforce.md")
    gateway, tests = (_NO_CODE.sub("''", text) for text in _APEX.findall(page.read_text()))
    for code in (gateway, tests):
        assert _unclosed(code) == []
    assert re.match(r"public with sharing class PolicyGateway \{", gateway)
    assert re.match(r"@IsTest\s+private class PolicyGatewayTest \{", tests)
    # The compiler refuses an exception whose name does not end so.
    exceptions = re.findall(r"class (\w+) extends Exception", gateway)
    assert exceptions == ["BlockedException"]
    methods = set(re.findall(r"public static \w+ (\w+)\(", gateway))
    used = set(re.findall(r"PolicyGateway\.(\w+)", tests))
    assert used == methods | {"BlockedException"}
    assert "@future(callout=true)" in gateway
    assert len(re.findall(r"@IsTest static void \w+\(\)", tests)) >= len(methods)


def _unclosed(code: str) -> list[str]:
    """Brackets that nothing closes, or one that closes nothing."""
    waiting: list[str] = []
    for letter in code:
        if letter in _PAIRS.values():
            waiting.append(letter)
        elif letter in _PAIRS and (not waiting or waiting.pop() != _PAIRS[letter]):
            return [letter]
    return waiting
