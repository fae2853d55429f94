"""A time-stamp authority of openssl's, and storage: as good as the chain where they are enough."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.anchors.files import Files
from gateway.anchors.timestamps import Timestamps
from gateway.anchors.values import Anchor, Condition, Final, Head, Progress, State, Waiting
from gateway.clock import Clock, parse
from gateway.egress.outgoing import Outgoing
from tests.anchors.authority import Authority
from tests.anchors.local_chain import LOOPBACK
from tests.serving import serving

pytestmark = pytest.mark.anyio


def an_anchor(size: int = 10, note: str = "gw.example/trace/main\n10\nroot\n") -> Anchor:
    head = Head(0, "gw.example/trace/main", size, b"r" * 32, note)
    return Anchor("anc_1", "other", head, State.QUEUED, "2026-01-01T00:00:00.000000Z")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "authority")


@asynccontextmanager
async def stamped_by(
    authority: Authority, roots: bytes | None = None, *, instead: bytes | None = None
) -> AsyncIterator[Timestamps]:
    async def answer(request: Request) -> Response:
        query = await request.body()
        reply = instead or await asyncio.to_thread(authority.stamp, query)
        return Response(reply, media_type="application/timestamp-reply")

    app = Starlette(routes=[Route("/tsa", answer, methods=["POST"])])
    async with serving(app) as port:
        url = f"http://127.0.0.1:{port}/tsa"
        backend = Timestamps(Outgoing(url, private_allowed=LOOPBACK), roots or authority.roots)
        yield backend
        backend.close()


async def test_a_checkpoint_is_stamped_and_openssl_agrees(authority: Authority) -> None:
    anchor = an_anchor()
    async with stamped_by(authority) as backend:
        done = await backend.advance(anchor)
    assert isinstance(done, Final)
    assert abs((parse(done.receipt.at) - parse(Clock().now())).total_seconds()) < 600
    (authority.folder / "kept.tsr").write_bytes(done.receipt.proof)
    (authority.folder / "note").write_bytes(anchor.head.note.encode())
    told = authority.run("ts", "-verify", "-data", "note", "-in", "kept.tsr", "-CAfile", "root.pem")
    assert "Verification: OK" in told


def refused(progress: Progress) -> Waiting:
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.REFUSED
    return progress


async def test_a_stamp_by_another_root_is_none(authority: Authority, tmp_path: Path) -> None:
    other = await asyncio.to_thread(Authority, tmp_path / "other")
    async with stamped_by(authority, other.roots) as backend:
        refused(await backend.advance(an_anchor()))


async def test_a_stamp_of_an_earlier_question_is_none(authority: Authority) -> None:
    anchor = an_anchor()
    async with stamped_by(authority) as backend:
        done = await backend.advance(anchor)
    assert isinstance(done, Final)
    async with stamped_by(authority, instead=done.receipt.proof) as backend:
        refused(await backend.advance(anchor))


async def test_nonsense_is_no_stamp(authority: Authority) -> None:
    async with stamped_by(authority, instead=b"nonsense") as backend:
        refused(await backend.advance(an_anchor()))


async def test_an_authority_that_is_away_is_asked_again(authority: Authority) -> None:
    nobody = Outgoing("http://127.0.0.1:9/tsa", private_allowed=LOOPBACK)
    progress = await Timestamps(nobody, authority.roots).advance(an_anchor())
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.UNREACHABLE


def contents(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def cut(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_text(path.read_text()[:2])


async def test_storage_gets_each_head_as_it_was_signed(tmp_path: Path) -> None:
    folder = tmp_path / "worm"
    folder.mkdir()
    files = Files(folder, Clock())
    for size in (10, 20, 20):
        assert isinstance(await files.advance(an_anchor(size, f"note {size}")), Final)
    assert contents(folder) == ["note 10", "note 20"]


async def test_storage_that_holds_another_head_of_that_size_is_an_incident(tmp_path: Path) -> None:
    files = Files(tmp_path, Clock())
    await files.advance(an_anchor(10, "note"))
    progress = await files.advance(an_anchor(10, "another"))
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.FORK
    assert contents(tmp_path) == ["note"]


async def test_a_head_that_was_written_in_part_is_written_whole(tmp_path: Path) -> None:
    files = Files(tmp_path, Clock())
    await files.advance(an_anchor(10, "note"))
    cut(tmp_path)
    assert isinstance(await files.advance(an_anchor(10, "note")), Final)
    assert contents(tmp_path) == ["note"]


async def test_a_file_gets_a_line_for_each_head(tmp_path: Path) -> None:
    path = tmp_path / "heads.ndjson"
    files = Files(path, Clock())
    for size in (10, 20):
        await files.advance(an_anchor(size))
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert '"size": 20' in lines[1]


async def test_storage_that_is_away_is_told_and_tried_again(tmp_path: Path) -> None:
    progress = await Files(tmp_path / "none" / "heads", Clock()).advance(an_anchor())
    assert isinstance(progress, Waiting)
    assert progress.condition is Condition.UNREACHABLE
