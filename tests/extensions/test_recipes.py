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
