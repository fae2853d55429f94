"""Several gateways, each with its OPA, and one bundle: built by one, taken from the database."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.background.shared_policy import SharedPolicy
from gateway.policy import activation
from gateway.policy.sharing import Offer, SharingFault
from tests import builders
from tests.gateways import a_pair
from tests.policy.test_activation import World, a_world, packed_anew, prepare
from tests.policy.world import the_opa
from tests.postgresql import a_database

pytestmark = pytest.mark.anyio

Gateways = tuple[builders.World, builders.World]


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    the_opa()
    with a_database() as place, a_pair(tmp_path, place) as pair:
        yield pair


@dataclass
class Pair:
    gateways: Gateways
    one: World
    """The one that builds."""
    two: World
    sharing: tuple[SharedPolicy, SharedPolicy]

    async def agree(self) -> str:
        """Return the digest, once both decide by it and say so."""
        async with asyncio.timeout(60):
            while True:
                (_, here), (_, there) = await self.one.answer(), await self.two.answer()
                if here == there == self.one.active().digest == self.two.active().digest:
                    return here
                await asyncio.sleep(0.02)


@pytest.fixture
async def pair(
    gateways: Gateways, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pair]:
    monkeypatch.setattr(activation, "_LOOK_SECONDS", 0.1)
    sharing = (SharedPolicy(gateways[0].state), SharedPolicy(gateways[1].state))
    for name in ("a", "b"):
        prepare(tmp_path / name)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(a_world(tmp_path / "a", sharing[0]))
        (tmp_path / "b/policies/word.rego").unlink()  # other sources: they are not asked
        two = await stack.enter_async_context(a_world(tmp_path / "b", sharing[1]))
        yield Pair(gateways, one, two, sharing)


async def test_all_decide_by_the_bundle_that_one_built(pair: Pair) -> None:
    first = await pair.agree()
    assert pair.two.bundles.digest_of(pair.two.active().revision) == first
    pair.one.say("two")
    await pair.one.until_word("two")
    second = await pair.agree()
    assert second != first
    assert await pair.two.answer() == ("two", second)
    # One's broken sources leave both on the last good one; what another has is not looked at.
    pair.one.write("word.rego", "package policies.all.word\n\nword := ")
    pair.two.write("word.rego", "package policies.all.word\n\nword := ")
    await pair.one.until(pair.one.failed)
    assert await pair.agree() == second
    assert not pair.two.failed()
    # Each can show every bundle that any of them decided by.
    for digest in (first, second):
        assert await pair.one.activation.archived(digest)
        shutil.rmtree(pair.two.folder / "data/bundles")
        assert await pair.two.activation.archived(digest)
        (pair.two.folder / "data/bundles").mkdir()
    rows = pair.gateways[0].rows("SELECT digest FROM policy_bundles ORDER BY published")
    assert rows == [(first,), (second,)]


async def test_a_bundle_that_was_published_in_other_bytes_is_named_by_those(pair: Pair) -> None:
    await pair.agree()
    offered = pair.two.bundles.current
    assert offered is not None
    other = packed_anew(offered)
    await pair.sharing[0].store(Offer(other, "tried"))
    await pair.sharing[0].publish(other.digest)
    async with asyncio.timeout(60):
        while True:
            answered, active = await pair.two.answer(), pair.two.active().digest
            if answered == ("one", other.digest) and active == other.digest:
                break
            await asyncio.sleep(0.02)


async def test_who_cannot_take_it_keeps_its_last_says_so_and_then_refuses(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await pair.agree()
    store = pair.sharing[0].store

    async def store_damaged(offer: object) -> None:
        await store(offer)  # type: ignore[arg-type]
        statement = "UPDATE policy_bundles SET archive = '\\x00' WHERE digest <> %s"
        await pair.gateways[0].state.writer.change(
            lambda c: c.exec_driver_sql(statement, (first,)).rowcount
        )

    monkeypatch.setattr(SharedPolicy, "store", lambda _, offer: store_damaged(offer))
    pair.one.say("two")
    await pair.one.until_word("two")
    await pair.two.until(lambda: pair.two.complains_of("its bytes were changed"))
    assert await pair.two.answer() == ("one", first)
    assert not pair.two.activation.behind
    monkeypatch.setattr(activation, "BEHIND_SECONDS", 0.1)
    await pair.two.until(lambda: pair.two.activation.behind)
    assert not pair.one.activation.behind
    monkeypatch.undo()
    monkeypatch.setattr(activation, "_LOOK_SECONDS", 0.1)
    pair.one.say("three")
    await pair.agree()
    assert (await pair.two.answer())[0] == "three"
    await pair.two.until(lambda: not pair.two.failed())
    assert not pair.two.activation.behind


async def test_when_the_lease_goes_to_another_it_builds_and_all_follow(pair: Pair) -> None:
    await pair.agree()
    pair.two.say("mine")
    holder = pair.gateways[1].state.log.slot.holder
    lapse = "UPDATE leases SET holder = %s WHERE name = 'policy'"
    await pair.gateways[1].state.writer.change(
        lambda c: c.exec_driver_sql(lapse, (holder,)).rowcount
    )
    # Who has lost it publishes nothing, whatever it still believes.
    with pytest.raises(SharingFault, match="LeaseLost"):
        await pair.sharing[0].publish(pair.one.active().digest)
    await pair.two.until_word("mine")
    digest = await pair.agree()
    assert await pair.one.answer() == ("mine", digest)
    made = "SELECT made_by FROM policy_bundles ORDER BY published DESC LIMIT 1"
    assert pair.gateways[0].rows(made) == [(holder,)]
