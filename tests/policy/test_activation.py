"""From a save to a decision, with a real OPA: what becomes active, and what never does."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import orjson
import pytest

from gateway import assets
from gateway.http1.client import Client, UnixAddress
from gateway.policy import activation, bundles, proof
from gateway.policy.activation import Activation, Active, Failure
from gateway.policy.bundle_server import BundleServer
from gateway.policy.bundles import Bundle
from gateway.policy.engine import Engine
from gateway.policy.opa_process import OpaProcess
from gateway.policy.sharing import Sharing
from gateway.policy.sources import BundleFault, Source
from tests.policy.world import KEY, TOKEN, deafen, served, the_opa

pytestmark = pytest.mark.anyio

ROUTER = """package gateway

import rego.v2

decision := {"action": "DENY", "reasons": [data.policies.all.word.word]}
"""
WORD = 'package policies.all.word\n\nword := "{}"\n'
SECONDS = 20


@dataclass
class World:
    folder: Path
    activation: Activation
    bundles: BundleServer
    opa: OpaProcess
    engine: Engine
    told: list[Active | Failure]

    def say(self, word: str) -> None:
        self.write("word.rego", WORD.format(word))

    def write(self, name: str, text: str) -> None:
        (self.folder / "policies" / name).write_text(text)

    async def answer(self) -> tuple[str, str]:
        """The word that decides, and the digest of the bundle it is from."""
        found = await self.engine.ask(b"gateway/decision", b'{"input": {}}', key="k", seconds=5)
        assert isinstance(found.result, dict)
        return found.result["reasons"][0], found.bundle_digest

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not true():  # noqa: ASYNC110 - nobody tells a test
                await asyncio.sleep(0.01)

    def failed(self) -> bool:
        failure = self.activation.status().last_failure
        return failure is not None and failure.resolved_at is None

    def complains_of(self, word: str) -> bool:
        return word in str(self.activation.status().last_failure)

    async def until_word(self, word: str) -> None:
        async with asyncio.timeout(SECONDS):
            while (await self.answer())[0] != word:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await self.until(lambda: self.active().digest == self.bundles_digest())

    def active(self) -> Active:
        active = self.activation.status().active
        assert active is not None
        return active

    def bundles_digest(self) -> str:
        assert self.bundles.current is not None
        return self.bundles.current.digest


def prepare(folder: Path) -> None:
    for name, text in (("gateway/decision", ROUTER), ("policies/word", WORD.format("one"))):
        path = folder / f"{name}.rego"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@asynccontextmanager
async def a_world(folder: Path, sharing: Sharing | None = None) -> AsyncIterator[World]:
    names = ("gateway", "policies")
    server = BundleServer(TOKEN)
    opa = OpaProcess(
        binary=the_opa(),
        config=assets.asset("opa-config.yaml"),
        data_dir=folder / "data",
        token=TOKEN,
        key=KEY,
        bundles=server,
    )
    told: list[Active | Failure] = []

    async def tell(news: Active | Failure) -> None:
        told.append(news)

    made = Activation(
        sources=lambda: [Source(name, folder / name, (name,)) for name in names],
        rego=assets.asset("rego"),
        binary=the_opa(),
        key=KEY,
        archive=folder / "data/bundles",
        bundles=server,
        opa=opa,
        now=lambda: "2026-01-01T00:00:00.000000Z",
        tell=tell,
        sharing=sharing,
    )
    await made.begin()
    async with served(server) as url:
        client = Client(UnixAddress(str(opa.socket_path)))
        engine = Engine(client, server, ready=lambda: opa.ready)
        await opa.start(url)
        running = asyncio.create_task(made.run())
        try:
            await opa.wait_ready(SECONDS)
            world = World(folder, made, server, opa, engine, told)
            await world.until(lambda: made.status().active is not None)
            yield world
        finally:
            running.cancel()
            await asyncio.wait([running])
            client.close()
            await opa.stop()
    assert running.cancelled()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    prepare(tmp_path)
    async with a_world(tmp_path) as found:
        yield found


async def test_a_save_is_active_and_both_bundles_are_kept(world: World) -> None:
    first = world.active()
    assert await world.answer() == ("one", first.digest)
    world.say("two")
    await world.until_word("two")
    second = world.active()
    assert second.digest != first.digest
    assert second.sources.keys() == {"gateway", "policies"}
    for digest in (first.digest, second.digest):
        assert await world.activation.archived(digest)
    assert [news.digest for news in world.told if isinstance(news, Active)] == [
        *(first.digest, second.digest),
    ]


async def test_a_broken_save_is_told_and_mended_while_the_last_good_one_decides(
    world: World,
) -> None:
    good = await world.answer()
    world.write("word.rego", "package policies.all.word\n\nword := nothing\n")
    await world.until(world.failed)
    failure = world.activation.status().last_failure
    assert failure is not None
    assert (failure.file, failure.line) == (str(world.folder / "policies/word.rego"), 3)
    assert failure.deciding == good[1]
    assert await world.answer() == good
    world.say("one")
    await world.until(lambda: not world.failed())
    assert await world.answer() == good
    assert [type(news) for news in world.told] == [Active, Failure]


async def test_failures_are_told_at_most_once_a_minute(world: World) -> None:
    for n in range(3):
        world.write("word.rego", f"package policies.all.word\n\nword := nothing{n}\n")
        await world.until(partial(world.complains_of, f"nothing{n}"))
    assert len([news for news in world.told if isinstance(news, Failure)]) == 1


async def test_several_saves_at_once_make_one_bundle(world: World) -> None:
    for n in range(20):
        world.say(f"word-{n}")
        world.write(f"other{n}.rego", f"package policies.all.other{n}\n")
    await world.until_word("word-19")
    assert len([news for news in world.told if isinstance(news, Active)]) <= 3


async def test_a_bundle_that_another_zlib_packed_keeps_its_name(tmp_path: Path) -> None:
    prepare(tmp_path)
    async with a_world(tmp_path) as world:
        before = world.bundles.current
    assert before is not None
    other = packed_anew(before)
    archive = tmp_path / "data/bundles"
    bundles.keep(other, archive, bundles.last_tried(archive))
    async with a_world(tmp_path) as world:
        assert await world.answer() == ("one", other.digest)
        assert world.active().digest == other.digest


def packed_anew(bundle: Bundle) -> Bundle:
    """The same bundle, compressed otherwise."""
    archive = gzip.compress(gzip.decompress(bundle.archive), compresslevel=9)
    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert digest != bundle.digest
    return replace(bundle, archive=archive, digest=digest)


async def test_a_folder_that_is_replaced_is_still_watched(world: World) -> None:
    policies = world.folder / "policies"
    policies.rename(world.folder / "old")
    policies.mkdir()
    world.say("two")
    await world.until_word("two")
    world.say("three")
    await world.until_word("three")


async def test_an_edit_that_the_system_did_not_tell_of_becomes_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deafen(monkeypatch, 0.2)
    prepare(tmp_path)
    async with a_world(tmp_path) as world:
        world.say("two")
        await world.until_word("two")
        world.say("three")
        await world.until_word("three")


async def test_a_bundle_that_opa_does_not_take_is_taken_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = await world.answer()
    monkeypatch.setattr(activation, "TAKE_SECONDS", 1.0)
    monkeypatch.setattr(activation, "pack", lambda tree, _key: bundles.pack(tree, b"x" * 32))
    world.say("two")
    await world.until(world.failed)
    failure = world.activation.status().last_failure
    assert failure is not None
    assert "OPA did not take the bundle" in failure.reason
    assert world.bundles_digest() == good[1]
    assert await world.answer() == good


async def test_a_restart_with_broken_sources_serves_the_last_good_bundle(tmp_path: Path) -> None:
    prepare(tmp_path)
    async with a_world(tmp_path) as world:
        world.say("two")
        await world.until_word("two")
        good = await world.answer()
        pointer = tmp_path / "data/bundles/last-good.json"
        # It answers a moment before it is kept.
        while good[1] not in pointer.read_text():  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.01)
    (tmp_path / "policies/word.rego").write_text("package policies.all.word\n\nword :=\n")
    async with a_world(tmp_path) as world:
        assert await world.answer() == good
        assert world.failed()
        assert [type(news) for news in world.told] == [Failure]
        world.say("three")
        await world.until_word("three")
        assert not world.failed()


async def test_without_any_good_bundle_broken_sources_stop_the_start(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "policies/word.rego").write_text("package gateway\n")
    with pytest.raises(BundleFault, match="outside policies"):
        async with a_world(tmp_path):
            pass


async def test_what_was_tried_before_is_not_tried_again_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    async with a_world(tmp_path):
        pass
    pointer = orjson.loads((tmp_path / "data/bundles/last-good.json").read_bytes())
    assert pointer["tried"]
    monkeypatch.setattr(proof, "try_all", None)
    async with a_world(tmp_path) as world:
        assert world.told == []
    (tmp_path / "policies/word_test.rego").write_text("package policies_test.word\n")
    with pytest.raises(TypeError):
        async with a_world(tmp_path):
            pass
