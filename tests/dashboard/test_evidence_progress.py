"""While a bundle is written, whoever asked for it sees how far it is; nobody else does."""

import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from gateway.ids import new_id
from gateway.registry import evidence
from gateway.trace.record import Draft
from tests.dashboard.site import Site, a_site, csrf_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    with a_site(folder) as found:
        yield found


def append(site: Site, count: int) -> None:
    state = site.world.state
    drafts = [
        Draft("decision", new_id("trc"), site.world.project_id, {"decision": "ALLOW"})
        for _ in range(count)
    ]
    state.writer.change_now(lambda c: state.log.append(c, drafts))


async def progress(client: httpx.AsyncClient) -> str:
    text: str = (await client.get("/dashboard/evidence/progress")).json()["text"]
    return text


async def test_a_bundle_tells_how_far_it_is_while_it_is_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(site, 20)
    go_on, pages = threading.Event(), evidence.BundleWriter._pages

    def slow(self: evidence.BundleWriter, *given: Any) -> Iterator[Any]:
        for number, page in enumerate(pages(self, *given)):
            if number == 2:
                assert go_on.wait(60)
            yield page

    monkeypatch.setattr(evidence, "_PAGE", 5)
    monkeypatch.setattr(evidence.BundleWriter, "_pages", slow)
    answers: list[httpx.Response] = []
    async with site.person("auditor") as client, site.person("admin") as other:
        token = csrf_of(await client.get("/dashboard/evidence"))

        async def download() -> None:
            form = {"csrf": token}
            answers.append(await client.post("/dashboard/evidence", data=form, timeout=60))

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(download)
                with anyio.fail_after(60):
                    while " of " not in (text := await progress(client)):
                        assert text in ("", "Preparing…")
                read, _, of = text.removesuffix(" records…").partition(" of ")
                assert 0 < int(read) < int(of)
                assert await progress(other) == ""
                go_on.set()
        finally:
            go_on.set()
        assert zipfile.is_zipfile(io.BytesIO(answers[0].content))
        assert await progress(client) == ""


async def test_what_cannot_be_written_is_not_shown_as_under_way(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: evidence.BundleWriter) -> evidence.Written:
        raise OSError("no space left on device")

    monkeypatch.setattr(evidence.BundleWriter, "write", full)
    async with site.person("auditor") as client:
        token = csrf_of(await client.get("/dashboard/evidence"))
        with pytest.raises(OSError, match="no space"):
            await client.post("/dashboard/evidence", data={"csrf": token})
        assert await progress(client) == ""
