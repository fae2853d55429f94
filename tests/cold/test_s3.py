"""Cold storage in S3: a real server, real credentials, and what goes wrong on the way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.clock import after
from gateway.cold.objects import ColdAway, ColdDamaged, Objects
from gateway.cold.place import cold_store
from tests import places
from tests.cold.cold_world import ColdWorld, a_cold_world
from tests.cold.s3_server import BUCKET, S3, an_s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with an_s3_server() as running:
        yield running


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.failing.busy = server.failing.lose = 0
    server.failing.slow, server.failing.cut = 0.0, False


@pytest.fixture
def cold(s3: S3, tmp_path: Path) -> Iterator[ColdWorld]:
    with a_cold_world(tmp_path, objects=bucket(s3, tmp_path)) as made:
        yield made


def bucket(s3: S3, tmp_path: Path) -> Objects:
    """With a prefix of this test's own."""
    store = cold_store(f"s3://{BUCKET}/{tmp_path.name}", s3.url)
    assert store is not None
    return store.objects


def objects(s3: S3, tmp_path: Path) -> list[str]:
    listed = s3.admin.list_objects_v2(Bucket=BUCKET, Prefix=f"{tmp_path.name}/")
    return [one["Key"] for one in listed.get("Contents", ())]


def test_records_are_read_from_s3_as_before(cold: ColdWorld, s3: S3, tmp_path: Path) -> None:
    calls = cold.calls()
    before = cold.seen(calls)
    assert cold.archive().round() == 768
    assert cold.seen(calls) == before
    assert {one.status for one in cold.recheck().values()} == {"PASS"}
    base = f"{tmp_path.name}/{cold.origin}"
    assert {f"{base}/checkpoint", f"{base}/tile/0/000", f"{base}/tile/entries/002"} <= set(
        objects(s3, tmp_path)
    )
    s3.admin.delete_object(Bucket=BUCKET, Key=f"{base}/tile/entries/001")
    assert "tile/entries/001 is missing" in cold.recheck()["cold.objects"].detail


def test_a_storage_that_is_busy_slow_or_forgets_to_answer_is_asked_again(
    cold: ColdWorld, s3: S3
) -> None:
    s3.failing.busy, s3.failing.lose, s3.failing.slow = 3, 3, 0.02
    assert cold.archive().round() == 768
    s3.failing.busy = 2
    assert {one.status for one in cold.recheck().values()} == {"PASS"}


def test_with_wrong_credentials_nothing_moves_and_nothing_is_shown(
    cold: ColdWorld, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    right, cold.objects.inner = cold.objects.inner, bucket(s3, tmp_path)
    with pytest.raises(ColdAway, match="it answers 403 Forbidden") as told:
        cold.archive().round()
    assert "wrong-secret" not in str(told.value)
    assert (cold.hot(), objects(s3, tmp_path)) == (850, [])
    cold.objects.inner = right
    assert cold.archive().round() == 768
    cold.objects.inner = bucket(s3, tmp_path)
    assert cold.recheck()["cold.objects"].status == "CANNOT TELL"
    with pytest.raises(ColdAway):
        cold.seen([])


def test_an_answer_that_is_cut_short_is_no_answer(cold: ColdWorld, s3: S3) -> None:
    s3.failing.cut = True
    with pytest.raises((ColdAway, ColdDamaged)):
        cold.archive().round()
    assert cold.hot() == 850
    s3.failing.cut = False
    assert cold.archive().round() == 768


def test_an_object_of_somebody_else_is_never_overwritten(
    cold: ColdWorld, s3: S3, tmp_path: Path
) -> None:
    key = f"{tmp_path.name}/{cold.origin}/tile/entries/000"
    s3.admin.put_object(Bucket=BUCKET, Key=key, Body=b"mine")
    with pytest.raises(ColdDamaged, match="take it away"):
        cold.archive().round()
    assert s3.admin.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"mine"
    assert cold.hot() == 850


def test_a_process_that_is_killed_while_it_moves_loses_nothing(s3: S3, tmp_path: Path) -> None:
    place = f"s3://{BUCKET}/{tmp_path.name}"
    with a_cold_world(tmp_path, objects=bucket(s3, tmp_path)) as cold:
        calls = cold.calls()
        before = cold.seen(calls)
        old = after(cold.world.state.clock.now(), -3 * 86_400)
        cold.world.state.writer.change_now(
            lambda c: (
                c.exec_driver_sql(places.sql("UPDATE checkpoints SET ts = ?"), (old,)).rowcount
            )
        )
    given = {"GATEWAY_COLD_STORE": place, "GATEWAY_COLD_ENDPOINT": s3.url}
    given |= {"GATEWAY_COLD_AFTER_DAYS": "2", "GATEWAY_DATA_DIR": str(tmp_path / "data")}
    s3.failing.slow, already = 0.05, len(s3.failing.seen)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "log", "archive"],
        env=os.environ | given,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(s3.failing.seen) < already + 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    s3.failing.slow = 0.0
    with a_cold_world(tmp_path, objects=bucket(s3, tmp_path)) as cold:
        assert cold.seen(calls) == before
        archive = cold.archive()
        archive.holder = cold.world.state.log.slot.holder  # its own lease keeps nobody out
        archive.round()
        assert (cold.cold(), cold.hot()) == (768, 82)
        assert cold.seen(calls) == before
        assert {one.status for one in cold.recheck().values()} == {"PASS"}
