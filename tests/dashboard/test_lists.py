"""Lists: something is found in all of them, sorted over all of them, and exported whole."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.dashboard import lists
from gateway.dashboard.routes import PAGES
from gateway.registry import agents
from gateway.registry.agents import NewAgent
from gateway.registry.core import Actor, Change
from tests.dashboard.site import Site, a_site

pytestmark = pytest.mark.anyio

AGENTS = 230
LISTS = sorted(page.path.removesuffix(".csv") for page in PAGES if page.path.endswith(".csv"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    with a_site(folder) as found:
        by = Actor.operator(found.world.project_id, "Alma")
        found.world.state.registry.change_now(by, many_agents)
        yield found


def many_agents(change: Change) -> None:
    for number in range(AGENTS):
        owner = "=HYPERLINK()" if number == 7 else f"team {number % 3}"
        agents.create(change, NewAgent(name=f"bot {(number * 7) % AGENTS:03}", owner=owner))


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200
    return re.findall(r"<strong class=\"pg-wrap\">(bot \d+)</strong>", answer.text)


async def test_a_search_reads_the_whole_list_and_not_its_page(site: Site) -> None:
    async with site.person("auditor") as client:
        first = names(await client.get("/dashboard/agents"))
        assert len(first) == lists.PER_PAGE
        for number in range(AGENTS):
            if f"bot {number:03}" not in first:
                break
        assert names(await client.get(f"/dashboard/agents?q=BOT {number:03}")) == [
            f"bot {number:03}"
        ]
        nothing = await client.get("/dashboard/agents", params={"q": "<b>nobody"})
        assert "Nothing holds “&lt;b&gt;nobody”" in nothing.text


async def test_a_list_is_sorted_over_all_its_pages_both_ways(site: Site) -> None:
    wanted = [f"bot {number:03}" for number in range(AGENTS)]
    async with site.person("auditor") as client:
        for sort, expected in (("name", wanted), ("-name", wanted[::-1])):
            found: list[str] = []
            address: str | None = f"/dashboard/agents?sort={sort}"
            while address is not None:
                page = await client.get(address)
                found += names(page)
                onward = re.search(r'rel="next" href="(\?[^"]+)"', page.text)
                address = onward and "/dashboard/agents" + onward[1].replace("&amp;", "&")
            assert found == expected
        ascending = await client.get("/dashboard/agents?sort=name&q=bot 01")
        assert '<th aria-sort="ascending"><a class="pg-sort" href="?q=bot+01&amp;sort=-name"' in (
            ascending.text
        )
        unsorted = await client.get("/dashboard/agents?sort=secret_hash")
        assert len(names(unsorted)) == lists.PER_PAGE


async def test_more_than_can_be_looked_through_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MOST", 50)
    async with site.person("auditor") as client:
        assert "Only the first" in (await client.get("/dashboard/agents?q=bot")).text
        exported = await client.get("/dashboard/agents.csv?q=bot")
        assert len(exported.text.splitlines()) == AGENTS + 1


async def test_an_export_holds_every_row_and_no_formula(site: Site) -> None:
    async with site.person("auditor") as client:
        exported = await client.get("/dashboard/agents.csv")
        assert exported.headers["content-type"].startswith("text/csv")
        assert 'filename="agents.csv"' in exported.headers["content-disposition"]
        rows = list(csv.DictReader(io.StringIO(exported.text)))
        assert sorted(row["name"] for row in rows) == [f"bot {n:03}" for n in range(AGENTS)]
        assert [row["owner"] for row in rows if "HYPERLINK" in row["owner"]] == ["'=HYPERLINK()"]
    async with site.person("approver") as client:
        assert (await client.get("/dashboard/agents.csv")).status_code == 403


@pytest.mark.parametrize("home", LISTS)
async def test_every_list_is_found_in_sorted_and_exported(site: Site, home: str) -> None:
    if home == "/traces":
        return  # its filters, and its export, are the API's own
    async with site.person("admin") as client:
        for query in ("", "?q=x", "?sort=created_at", "?sort=-name&q=bot&at=100", "?at=x&q=b"):
            answer = await client.get(f"/dashboard{home}{query}")
            assert answer.status_code == 200, (query, answer.text)
        exported = await client.get(f"/dashboard{home}.csv")
        assert exported.status_code == 200
        assert exported.text.startswith("id,")
