import asyncio

import httpx
import pytest

from gateway.policy.bundle_server import CONTENT_TYPE, PATH, BundleServer
from gateway.policy.bundles import Bundle

pytestmark = pytest.mark.anyio

FIRST = Bundle("sha256:r1", "sha256:d1", b"one")
SECOND = Bundle("sha256:r2", "sha256:d2", b"two")
BEARER = {"Authorization": "Bearer secret"}


def _client(server: BundleServer) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(server)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=BEARER)


async def test_the_current_bundle_is_given_with_its_tag_and_type() -> None:
    server = BundleServer("secret")
    server.offer(FIRST)
    async with _client(server) as client:
        answer = await client.get(PATH)
    assert (answer.status_code, answer.content) == (200, b"one")
    assert answer.headers["etag"] == '"sha256:d1"'
    assert answer.headers["content-type"] == CONTENT_TYPE


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic secret", "secret"])
async def test_nobody_reads_it_without_the_token(header: str) -> None:
    server = BundleServer("secret")
    server.offer(FIRST)
    async with _client(server) as client:
        answer = await client.get(PATH, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_only_reading_is_possible() -> None:
    async with _client(BundleServer("secret")) as client:
        assert (await client.put(PATH, content=b"x")).status_code == 405


async def test_before_the_first_bundle_there_is_a_503() -> None:
    async with _client(BundleServer("secret")) as client:
        assert (await client.get(PATH)).status_code == 503


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('"sha256:d1"', 304),
        ('W/"sha256:d1"', 304),
        ('"sha256:d0", "sha256:d1"', 304),
        ("*", 304),
        ('"sha256:d0"', 200),
        ("sha256:d1", 200),
    ],
)
async def test_who_has_the_bundle_gets_304(tags: str, status: int) -> None:
    server = BundleServer("secret")
    server.offer(FIRST)
    async with _client(server) as client:
        answer = await client.get(PATH, headers={"If-None-Match": tags})
    assert answer.status_code == status
    assert answer.headers["content-type"] == CONTENT_TYPE


async def test_a_poll_waits_for_the_next_bundle() -> None:
    server = BundleServer("secret")
    server.offer(FIRST)
    headers = {"If-None-Match": '"sha256:d1"', "Prefer": "modes=snapshot,delta;wait=30"}
    async with _client(server) as client:
        poll = asyncio.create_task(client.get(PATH, headers=headers))
        done, _ = await asyncio.wait([poll], timeout=0.05)
        assert not done
        server.offer(SECOND)
        assert (await poll).content == b"two"


async def test_a_poll_ends_with_304_when_its_time_is_over_or_the_server_closes() -> None:
    server = BundleServer("secret")
    server.offer(FIRST)
    known = {"If-None-Match": '"sha256:d1"'}
    async with _client(server) as client:
        assert (await client.get(PATH, headers=known | {"Prefer": "wait=1"})).status_code == 304
        poll = asyncio.create_task(client.get(PATH, headers=known | {"Prefer": "wait=30"}))
        await asyncio.wait([poll], timeout=0.02)
        server.close()
        assert (await poll).status_code == 304


async def test_the_digest_of_every_offered_revision_is_known_and_of_no_other() -> None:
    server = BundleServer("secret")
    server.offer(FIRST)
    server.offer(SECOND)
    assert server.revision == "sha256:r2"
    assert server.digest_of("sha256:r1") == "sha256:d1"
    assert server.digest_of("sha256:r2") == "sha256:d2"
    assert server.digest_of("sha256:r3") is None
