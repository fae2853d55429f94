"""An OPA that somebody else runs, with a real one."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import orjson
import pytest

from gateway import assets
from gateway.http1.client import Client
from gateway.policy.bundle_server import BundleServer
from gateway.policy.engine import Engine, EngineFault
from gateway.policy.opa import OpaOptions
from gateway.policy.opa_binary import OPA_VERSION
from gateway.policy.sidecar import SOCKET, Sidecar, hand_over, url_of
from gateway.settings.opa import OpaPlace, opa_place
from tests.end_to_end.nginx import free_port
from tests.policy.world import KEY, MODES, TOKEN, a_sidecar, bundle_of, served

pytestmark = pytest.mark.anyio

QUICK = OpaOptions(check_seconds=0.05)


@dataclass
class World:
    bundles: BundleServer
    opa: Sidecar
    engine: Engine
    url: str

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(15):
            while not condition():  # noqa: ASYNC110 - a process tells nobody that it ended
                await anyio.sleep(0.01)

    async def decides(self) -> list[str]:
        """The ids of the policies that it decides by."""
        answer = await self.engine.ask(b"gateway/decision", b'{"input":{}}', key="k")
        ids = answer.result["policy_ids"]
        assert isinstance(ids, list)
        return ids


@asynccontextmanager
async def a_world(place: OpaPlace, folder: Path) -> AsyncIterator[World]:
    bundles = BundleServer(TOKEN)
    bundles.offer(bundle_of(folder / "src", MODES))
    opa = Sidecar(place, bundles, QUICK)
    async with served(bundles) as url:
        client = Client(opa.address)
        engine = Engine(client, bundles, ready=lambda: opa.ready, seconds=5)
        await opa.start(url)
        try:
            yield World(bundles, opa, engine, url)
        finally:
            client.close()
            await opa.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "own"
    hand_over(made, assets.asset("opa-config.yaml"), TOKEN, KEY)
    return made


async def test_it_decides_while_it_runs_and_again_when_it_is_started_anew(
    tmp_path: Path, folder: Path
) -> None:
    async with a_world(opa_place(url_of(folder)), tmp_path) as world:
        assert not world.opa.ready
        with pytest.raises(EngineFault, match="not running"):
            await world.decides()
        with a_sidecar(folder, world.url):
            await world.until(lambda: world.opa.ready)
            assert await world.decides() == ["t.one"]
            newer = bundle_of(tmp_path / "src", MODES.replace("t.one", "t.two"))
            world.bundles.offer(newer)
            assert await world.opa.answers_from(newer.revision, 10)
            assert await world.decides() == ["t.two"]
        await world.until(lambda: not world.opa.ready)
        assert f"OPA at {folder / SOCKET}: no answer" in world.opa.status().last_error
        with a_sidecar(folder, world.url):
            await world.until(lambda: world.opa.ready)
            assert world.opa.status().last_error == ""
            assert await world.decides() == ["t.two"]


async def test_it_may_listen_on_a_port_of_this_machine(tmp_path: Path, folder: Path) -> None:
    port = free_port()
    async with a_world(opa_place(f"http://localhost:{port}"), tmp_path) as world:
        with a_sidecar(folder, world.url, f"127.0.0.1:{port}"):
            await world.until(lambda: world.opa.ready)
            assert await world.decides() == ["t.one"]


async def test_another_key_than_bundles_are_signed_with_never_decides(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    hand_over(folder, assets.asset("opa-config.yaml"), TOKEN, b"x" * 32)
    async with a_world(opa_place(url_of(folder)), tmp_path) as world:
        with a_sidecar(folder, world.url):
            await world.until((folder / SOCKET).exists)
            await anyio.sleep(2)  # with the right key it decides after a third of one
            assert not world.opa.ready


def _let_write(folder: Path, mode: int) -> None:
    folder.chmod(mode)


async def test_who_may_write_the_folder_does_not_answer_in_its_place(
    tmp_path: Path, folder: Path
) -> None:
    async with a_world(opa_place(url_of(folder)), tmp_path) as world:
        with a_sidecar(folder, world.url):
            await world.until(lambda: world.opa.ready)
            _let_write(folder, 0o777)
            await world.until(lambda: not world.opa.ready)
            assert f"anybody may write {folder}" in world.opa.status().last_error
            _let_write(folder, 0o700)
            await world.until(lambda: world.opa.ready)


async def test_another_version_does_not_decide(tmp_path: Path, folder: Path) -> None:
    said = OPA_VERSION

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        told = {"version": said, "bundles": {"gateway": {"revision": world.bundles.revision}}}
        body = orjson.dumps({"result": {}, "provenance": told})
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n"
        writer.write(head + body)
        writer.close()

    async with a_world(opa_place(url_of(folder)), tmp_path) as world:
        server = await asyncio.start_unix_server(answer, folder / SOCKET)
        await world.until(lambda: world.opa.ready)
        said = "1.21.0"
        await world.until(lambda: not world.opa.ready)
        wrong = f"it is 1.21.0; this gateway needs exactly {OPA_VERSION}"
        assert wrong in world.opa.status().last_error
        server.close()


def test_nobody_else_sees_what_it_is_given(folder: Path) -> None:
    folder.chmod(0o777)
    hand_over(folder, assets.asset("opa-config.yaml"), TOKEN, KEY)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes.pop("opa-config.yaml") & 0o022 == 0
    assert modes == {"token": 0o600, "bundle.key": 0o600, "state": 0o700}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1:8181", "http://10.0.0.1:8181", "http://opa:8181", "unix:opa.sock"),
        *("http://127.0.0.1:8181/v1", "http://a@127.0.0.1", "unix://opa.sock", "/run/opa.sock"),
        *("unix:///" + "x" * 120, "http://127.0.0.1:8181?x=1"),
    ],
)
def test_an_opa_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be|at most"):
        opa_place(url)


def test_places_on_this_machine_are_taken() -> None:
    assert opa_place("http://localhost") == ("127.0.0.1", 8181)
    assert opa_place("http://[::1]:9000/") == ("::1", 9000)
    assert opa_place("unix:///run/opa/opa.sock") == Path("/run/opa/opa.sock")
