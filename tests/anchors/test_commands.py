"""`gateway anchor`, and a gateway's own start, against a local chain."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from eth_account import Account

from gateway.anchors import rows, setup
from gateway.anchors.chain import Wallet
from gateway.anchors.contract import artifact
from gateway.data_dir.state import State, open_state
from gateway.ids import new_id
from gateway.settings import Settings, SettingsFault
from gateway.trace import receipts
from gateway.trace.checkpoint import Signing
from gateway.trace.record import Draft
from gateway.values import ProjectId
from tests import places
from tests.anchors.local_chain import CHAIN_ID, KEY, LocalChain
from tests.anchors.world import CONTRACT
from tests.builders import a_state
from tests.places import place_of
from tests.test_cli import gateway

SECOND_KEY = bytes.fromhex("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
"""anvil's second account."""


@pytest.fixture
def flare(chain: LocalChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of an operator, keystore and all; returns the data directory."""
    keystore = tmp_path / "key.json"
    keystore.write_text(json.dumps(Account.encrypt(KEY, "secret", kdf="pbkdf2", iterations=1)))
    (tmp_path / "password").write_text("secret\n")
    for name, value in {
        "FLARE_RPC_URL": chain.url,
        "FLARE_CHAIN_ID": str(CHAIN_ID),
        "FLARE_KEY_FILE": str(keystore),
        "FLARE_PASSWORD_FILE": str(tmp_path / "password"),
        "PRIVATE_UPSTREAMS": "127.0.0.0/8",
        "DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    return tmp_path / "data"


def test_the_contract_is_deployed_and_compared(flare: Path, chain: LocalChain) -> None:
    told = json.loads(gateway("anchor", "deploy", "--json").stdout)
    assert told["chain_id"] == CHAIN_ID
    assert chain.ask("eth_getCode", told["contract"], "latest") == "0x" + artifact().deployed.hex()
    assert told["paid_wei"] > 0


def test_nothing_is_deployed_on_another_chain(flare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_FLARE_CHAIN_ID", "14")
    result = gateway("anchor", "deploy")
    assert result.exit_code == 1
    assert "nothing was sent" in result.stderr


def test_a_wrong_password_is_told_without_any_of_it(flare: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("qwertz")
    result = gateway("anchor", "deploy")
    assert result.exit_code == 1
    assert "does not hold its password" in result.stderr
    assert "qwertz" not in result.output


def test_without_an_anchor_the_log_is_local_and_says_so(tmp_path: Path) -> None:
    with a_state(tmp_path):
        result = gateway("anchor", "status", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("LOCAL_ONLY: 0 of ")
    if not places.shared():  # where the database is not in the directory
        assert gateway("anchor", "status", "--data-dir", tmp_path / "none").exit_code == 3


def test_a_gateway_without_contract_does_not_start(flare: Path) -> None:
    with pytest.raises(SettingsFault, match="gateway anchor deploy"):
        setup.check(Settings.read())


def test_what_is_missing_is_told_at_once(flare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHAIN_ID", "PASSWORD_FILE"):
        monkeypatch.delenv(f"GATEWAY_FLARE_{name}")
    monkeypatch.setenv("GATEWAY_FLARE_CONTRACT", "here")
    with pytest.raises(SettingsFault) as fault:
        Settings.read()
    assert "no address" in str(fault.value)
    assert "GATEWAY_FLARE_CHAIN_ID (14 is Flare, 114 Coston2), GATEWAY_FLARE_PASSWORD" in str(
        fault.value
    )


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_FLARE_KEY", KEY.hex() + "00")
    with pytest.raises(SettingsFault) as fault:
        Settings.read()
    assert KEY.hex() not in str(fault.value)
    monkeypatch.setenv("GATEWAY_FLARE_KEY", KEY.hex())
    assert KEY.hex() not in repr(Settings.read())


@pytest.mark.anyio
async def test_who_anchors_is_a_record_before_it_anchors_and_another_key_is_one_too(
    flare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_FLARE_CONTRACT", CONTRACT)
    monkeypatch.setenv("GATEWAY_FLARE_SUCCESSOR", "0x" + "ab" * 20)
    monkeypatch.setenv("GATEWAY_ANCHOR_URGENT_SECONDS", "1")
    monkeypatch.setattr("gateway.anchors.flare.LEAST_SPACING", 0.0)
    monkeypatch.setenv("GATEWAY_ANCHOR_ROUTINE_SECONDS", "1")
    with a_state(flare):
        pass
    await a_run(flare)
    await a_run(flare)
    monkeypatch.delenv("GATEWAY_FLARE_KEY_FILE")
    monkeypatch.setenv("GATEWAY_FLARE_KEY", SECOND_KEY.hex())
    await a_run(flare)
    with open_state(flare, place=place_of(flare)) as state:
        first, second = state.registry.read_now(
            lambda c: c.exec_driver_sql(
                "SELECT idx, body FROM trace WHERE kind = 'key_change' ORDER BY idx"
            ).all()
        )
        found = state.registry.read_now(lambda c: receipts.of_log(c, 0, 10**9))
    before, after = json.loads(first.body), json.loads(second.body)
    assert before["writer"] == Wallet(KEY).address
    assert before["successor"] == "0x" + "ab" * 20
    assert "previous" not in before
    assert after["previous"] == before["writer"]
    assert after["writer"] == Wallet(SECOND_KEY).address
    assert {receipt.identity["writer"] for receipt in found} == {
        before["writer"],
        after["writer"],
    }
    assert all(receipt.size > first.idx for receipt in found)


async def a_run(data_dir: Path) -> None:
    """Run until a new record is anchored by the key that is set."""
    settings = Settings.read()
    with open_state(data_dir, place=place_of(data_dir)) as state:
        news = Draft("event", new_id("evt"), ProjectId("prj_1"))
        state.writer.change_now(lambda c: state.log.append(c, [news]))
        signing = Signing(state.writer, state.checkpoints)
        async with running(setup.run(settings, state, signing)):
            while standing(state) != "ANCHORED":
                LocalChain(str(settings.flare_rpc_url)).mine(2)
                await asyncio.sleep(0.2)


def standing(state: State) -> str:
    return state.registry.read_now(receipts.standing).state


@asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    async with asyncio.timeout(60):
        yield task
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.anyio
async def test_a_backend_that_cannot_be_opened_is_told_and_ends_nothing(
    flare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_FLARE_CONTRACT", CONTRACT)
    (tmp_path / "password").write_text("wrong")
    with a_state(flare) as world:
        state = world.state
        signing = Signing(state.writer, state.checkpoints)
        async with running(setup.run(Settings.read(), state, signing)):
            while standing(state) != "FAILED":  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        [backend] = state.registry.read_now(receipts.standing).backends
        assert "password" in backend.detail
        assert state.registry.read_now(rows.last_writer) is None
