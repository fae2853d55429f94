"""How long it takes to read a whole log again, and to write and check its evidence.

    python -m benchmarks.evidence [--records 1000000]

The records are decisions with an encrypted input, written by the log itself; their writing is told
too. A million must be read again in under a minute.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from gateway.ids import new_id
from gateway.registry.evidence import BundleWriter, Wanted
from gateway.registry.traces import Filter
from gateway.state import State, open_state
from gateway.store.database import reading_engine
from gateway.trace.bundle import Bundle
from gateway.trace.note import VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.record import Draft, Field
from gateway.trace.verify import Trust, verify
from gateway.values import ProjectId

Result = TypeVar("Result")

PROJECT = ProjectId("prj_1")
AT_ONCE = 5_000
INPUT = (
    b'{"input":' + b'{"tool":{"name":"query_records"},"arguments":{"object":"Account"}}' * 8 + b"}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    count = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder, open_state(Path(folder), create=True) as state:
        timed("written", count, lambda: fill(state, count))
        key = VerifierKey.parse(state.checkpoints.verifier_key)
        timed("read again (gateway verify db)", count, lambda: read_again(Path(folder), key))
        packed = Path(folder) / "evidence.zip"
        timed("evidence written, with every leaf", count, lambda: pack(state, packed))
        timed("evidence checked", count, lambda: check(packed, key))


def timed(what: str, count: int, work: Callable[[], None]) -> None:
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(
        f"{what:<36} {count:>10,} records {seconds:>8.1f} s {seconds / count * 1e6:>7.1f} us each"
    )


def fill(state: State, count: int) -> None:
    for drafts in batches(count):
        state.writer.change_now(partial(append, state, drafts))
    state.writer.change_now(state.checkpoints.make)


def append(state: State, drafts: list[Draft], connection: Connection) -> None:
    state.log.append(connection, drafts)


def batches(count: int) -> Iterator[list[Draft]]:
    fields: dict[str, Field] = {
        "decision": "ALLOW",
        "risk": "LOW",
        "server": "srv_1",
        "tool": "query_records",
        "agent": "agt_1",
        "rules": ["gateway.default"],
        "policy": "sha256:" + "0" * 64,
    }
    for start in range(0, count, AT_ONCE):
        calls = [new_id("trc") for _ in range(min(AT_ONCE, count - start))]
        yield [
            Draft("decision", call, PROJECT, fields, {"input": INPUT}, call_id=call)
            for call in calls
        ]


def read_again(folder: Path, key: VerifierKey) -> None:
    engine = reading_engine(folder / "gateway.db")
    with engine.connect() as connection, connection.begin():
        checks = recheck(connection, key, lambda _done, _of: None)
    engine.dispose()
    assert {check.status for check in checks} == {"PASS"}


def pack(state: State, path: Path) -> None:
    wanted = Wanted(Filter(), leaves=True)
    with path.open("w+b") as file:
        writer = BundleWriter(state.reader, state.keyring, PROJECT, wanted, state.clock.now(), file)
        writer.write()


def check(path: Path, key: VerifierKey) -> None:
    with contextlib.closing(Bundle(path)) as bundle:
        assert "FAIL" not in {one.status for one in verify(bundle, Trust(key))}


if __name__ == "__main__":
    main()
