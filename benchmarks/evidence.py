"""How long it takes to read a whole log again, and to write and check its evidence.

    python -m benchmarks.evidence [--records 1000000] [--decisions 20000]

The records are decisions with an encrypted input, written by the log itself; their writing is told
too. A million must be read again in under a minute, and exported by a gateway whose memory stays
where it is. Seconds of the processor are told beside those of the clock: on a busy machine they
are what can be compared. Needs `opa`; memory is read from /proc.
"""

import argparse
import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import httpx
import orjson
from sqlalchemy import Connection

from benchmarks.calls import free_port, process, wait_ready
from benchmarks.policies import QUESTION, bundle_of
from benchmarks.soak import resident
from gateway.commands.verify_replay import replay_checks
from gateway.data_dir.first_start import initialise
from gateway.data_dir.state import State, open_state
from gateway.ids import new_id
from gateway.policy import opa_binary
from gateway.policy.scratch import decide_all
from gateway.registry.evidence import BundleWriter, Wanted
from gateway.registry.traces import Filter
from gateway.settings import Settings
from gateway.store.database import reading_engine
from gateway.trace.bundle import Bundle
from gateway.trace.note import VerifierKey
from gateway.trace.recheck import recheck
from gateway.trace.record import Draft, Field
from gateway.trace.trust import Trust
from gateway.trace.verdicts import Check
from gateway.trace.verify import verify
from gateway.values import ProjectId

PROJECT = ProjectId("prj_1")
AT_ONCE = 5_000
LOOK_SECONDS = 0.2
INPUT = (
    b'{"input":' + b'{"tool":{"name":"query_records"},"arguments":{"object":"Account"}}' * 8 + b"}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--decisions", type=int, default=20_000, help="that are made again")
    given = parser.parse_args()
    print(f"{'':<36} {'records':>10} {'clock':>9} {'processor':>11} {'each':>10}")
    with tempfile.TemporaryDirectory() as folder:
        whole_log(Path(folder), given.records)
    with tempfile.TemporaryDirectory() as folder:
        made_again(Path(folder), given.decisions)


def whole_log(folder: Path, count: int) -> None:
    settings = Settings.read(data_dir=folder)
    made = initialise(settings, project="bench", owner="bench")
    project = ProjectId(made.project_id)
    with open_state(folder) as state:
        timed("written", count, lambda: fill(state, batches(count, project)))
        key = VerifierKey.parse(state.checkpoints.verifier_key)
        timed("read again (gateway verify db)", count, lambda: read_again(folder, key))
        packed = folder / "evidence.zip"
        timed("evidence written, with every leaf", count, lambda: pack(state, project, packed))
        timed("evidence checked", count, lambda: check(packed, key))
    with serving(folder) as (url, pid):
        export(url, made.admin_key, "kind=none", pid)  # what every first request brings along
        before = resident(pid)
        peak = [before]
        timed(
            "exported",
            count,
            lambda: peak.append(export(url, made.admin_key, "format=ndjson", pid)),
        )
        print(f"{'resident set of the gateway':<36} {before:.0f} MB, at most {max(peak):.0f} MB")


def timed(what: str, count: int, work: Callable[[], object]) -> None:
    start, used = time.perf_counter(), processor()
    work()
    seconds, used = time.perf_counter() - start, processor() - used
    each = f"{used / count * 1e6:>7.1f} us"
    print(f"{what:<36} {count:>10,} {seconds:>7.1f} s {used:>9.1f} s {each}", flush=True)


def processor() -> float:
    """Seconds of this process, and of its children that have ended."""
    told = os.times()
    return told.user + told.system + told.children_user + told.children_system


def fill(state: State, groups: Iterable[list[Draft]]) -> None:
    for drafts in groups:
        state.writer.change_now(partial(append, state, drafts))
    state.writer.change_now(state.checkpoints.make)


def append(state: State, drafts: list[Draft], connection: Connection) -> None:
    state.log.append(connection, drafts)


def batches(count: int, project: ProjectId) -> Iterator[list[Draft]]:
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
            Draft("decision", call, project, fields, {"input": INPUT}, call_id=call)
            for call in calls
        ]


def read_again(folder: Path, key: VerifierKey) -> None:
    engine = reading_engine(folder / "gateway.db")
    with engine.connect() as connection, connection.begin():
        checks = recheck(connection, key, lambda _done, _of: None)
    engine.dispose()
    assert {check.status for check in checks} == {"PASS"}


def pack(state: State, project: str, path: Path, policy: tuple[str, bytes] | None = None) -> None:
    wanted = Wanted(Filter(), leaves=True, disclose=policy is not None)
    with path.open("w+b") as file:
        writer = BundleWriter(state.reader, state.keyring, project, wanted, state.clock.now(), file)
        writer.write()
        if policy is not None:
            writer.add_policy(*policy)


def check(path: Path, key: VerifierKey) -> None:
    with contextlib.closing(Bundle(path)) as bundle:
        assert "FAIL" not in {one.status for one in verify(bundle, Trust(key))}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    port = free_port()
    environment = {
        "GATEWAY_DATA_DIR": str(folder),
        "GATEWAY_PORT": str(port),
        "GATEWAY_MANAGEMENT_PORT": "0",
        "GATEWAY_LOG_LEVEL": "error",
    }
    with process(sys.executable, "-m", "gateway", "serve", **environment) as running:
        wait_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}/api/v1/export", running.pid


def export(url: str, key: str, query: str, pid: int) -> float:
    """Read all of it; returns the most memory that the gateway had meanwhile, in megabytes."""
    headers = {"Authorization": f"Bearer {key}"}
    most, looked = 0.0, time.monotonic()
    with httpx.stream(
        "GET", f"{url}?{query}", headers=headers, timeout=60, trust_env=False
    ) as answer:
        answer.raise_for_status()
        for _ in answer.iter_bytes(1 << 20):
            if time.monotonic() - looked > LOOK_SECONDS:
                most, looked = max(most, resident(pid)), time.monotonic()
    return max(most, resident(pid))


def made_again(folder: Path, count: int) -> None:
    """Decisions of 50 policies, with their inputs, made again by the verifier."""
    opa = opa_binary.find()
    archive = bundle_of(folder / "policies", 50)
    policy = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    questions = [
        orjson.dumps({"input": {**QUESTION, "arguments": {"limit": n}}}) for n in range(count)
    ]
    answers = decide_all(archive, questions, opa)
    with open_state(folder / "data", create=True) as state:
        drafts = [
            Draft(
                "decision",
                call := new_id("trc"),
                PROJECT,
                {
                    "decision": one.action,
                    "rules": list(one.policy_ids),
                    "policy": policy,
                },
                {"input": question},
                call_id=call,
            )
            for question, one in zip(questions, answers, strict=True)
        ]
        groups = (drafts[i : i + AT_ONCE] for i in range(0, count, AT_ONCE))
        fill(state, groups)
        packed = folder / "evidence.zip"
        pack(state, PROJECT, packed, (policy, archive))
    with contextlib.closing(Bundle(packed)) as bundle:
        start = time.perf_counter()
        told: list[Check] = []
        timed(
            "made again (verify --replay)", count, lambda: told.extend(replay_checks(bundle, opa))
        )
        each_second = count / (time.perf_counter() - start)
    assert {check.status for check in told} == {"PASS"}, told
    print(f"{'':<36} {each_second:,.0f} decisions a second")


if __name__ == "__main__":
    main()
