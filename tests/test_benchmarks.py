"""What benchmarks are made of: filled databases that hold, numbers read aright, tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import stopwatch
from benchmarks.calls import parsed
from benchmarks.deployment import PAGES, Size, Start, Work
from benchmarks.filling import fill_people, fill_records, fill_rules, fill_servers
from benchmarks.peers.compare import Absent, Measured, middle, table
from benchmarks.peers.subjects import PEERS
from benchmarks.processes import own_seconds, processor_seconds, resident_mb, with_children
from benchmarks.profile import Profile, report, steps_between
from benchmarks.scale import BASE, DIMENSIONS, Called, Point, heading, line, median, named
from gateway.data_dir.first_start import initialise
from gateway.data_dir.state import open_by
from gateway.registry import agents
from gateway.registry.agents import NewAgent
from gateway.registry.core import Actor
from gateway.settings import Settings
from gateway.trace.note import VerifierKey
from gateway.trace.recheck import recheck
from gateway.values import ProjectId
from tests.conftest import needs

WRK = """Running 2s test @ http://127.0.0.1:1/mcp
  1 threads and 32 connections
  Latency Distribution
     50%  812.00us
     75%    1.10ms
     90%    1.30ms
     99%    0.12s
  9000 requests in 2.00s, 3.10MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
Requests/sec:   4500.12
Failed: 4
"""


def test_a_filled_log_is_as_if_it_had_grown_and_goes_on(tmp_path: Path) -> None:
    settings = Settings.read(data_dir=tmp_path)
    project = ProjectId(initialise(settings, project="bench", owner="bench").project_id)
    for count in (9_999, 1):
        fill_records(settings, project, count)
    with open_by(settings) as state:
        assert state.log.size >= 10_000
        state.registry.change_now(
            Actor.operator(project), lambda c: agents.create(c, NewAgent(name="a", owner="o"))
        )
        state.writer.change_now(state.checkpoints.make)
        key = VerifierKey.parse(state.checkpoints.verifier_key)
        with state.reader.connect() as connection, connection.begin():
            checks = recheck(connection, key, lambda _done, _of: None)
    assert {check.status for check in checks} == {"PASS"}, checks


def test_filled_agents_servers_and_rules_are_in_force(tmp_path: Path) -> None:
    settings = Settings.read(data_dir=tmp_path)
    project = ProjectId(initialise(settings, project="bench", owner="bench").project_id)
    with open_by(settings) as state:
        keys = fill_people(state, project, 3)
        servers = fill_servers(state, project, 2, "http://127.0.0.1:9/mcp")
        fill_rules(state, project, 4)
        view = state.directory.view(project)
        key = state.directory.key_of(keys[2])
    assert key is not None
    assert key.agent_id in view.agents
    assert {server.status for server in view.servers.values()} == {"ACTIVE"}
    assert set(view.servers) == set(servers)
    tools = [tool for of_server in view.tools.values() for tool in of_server.values()]
    assert {tool.pin for tool in tools} == {"ACCEPTED"}
    assert len(view.rules) == 4


def test_what_wrk_prints_is_read_in_milliseconds() -> None:
    row = parsed(WRK, 32, "it")
    assert (row.calls, row.p50, row.p99, row.failed) == (4500.12, 0.812, 120.0, 7)


def test_a_point_is_told_beside_its_base() -> None:
    rounds = [Called(calls, 1.0, 2.0, used, 0) for calls, used in ((100, 9), (300, 3), (200, 6))]
    assert median(rounds) == Called(200, 1.0, 2.0, 6, 0)
    work = Work(5.0, 4.0, "traces")
    base = Point("base", median(rounds), 100, 50, Start(1, 1), work, work, work)
    slow = Work(9.0, 8.0, "overview")
    point = Point("x", Called(50, 1, 2, 12, 1), 110, 60, Start(2, 1), work, work, slow, 4_000)
    told = line(point, base)
    assert "| 50 | 0.25 |" in told
    assert "| 12 | 2.00 |" in told
    assert "| 8.0 | 2.00 | overview | 4,000 |" in told
    assert told.endswith("1 failed")
    assert told.count("|") - 1 == heading().splitlines()[0].count("|") - 1


def test_a_point_is_named_by_what_differs() -> None:
    assert named(BASE) == "base"
    assert named(Size(traces=10_000_000)) == "10,000,000 traces"
    assert set(DIMENSIONS) == set(Size.__slots__)
    assert "/traces" in PAGES


def test_peers_are_told_beside_ours_and_absent_ones_with_the_reason() -> None:
    rounds = [Measured("policy-gateway", 1, calls, 1, 2, None, 3.0, 1) for calls in (1, 9, 5)]
    ours = middle(rounds)
    assert (ours.calls, ours.used, ours.memory, ours.failed) == (5, None, 3.0, 3)
    other = Measured("other", 1, 2.5, 1, 2, 7.0, 3.0, 0)
    told = table([ours, other, Absent("third", "it ended with status 1")])
    assert "| other | 1 | 2 | 0.50 |" in told
    assert "| third | | not measured: it ended with status 1 |" in told
    assert [peer.name.partition("=")[0] for peer in PEERS] == [
        *("direct", "policy-gateway", "fastmcp", "mcp-contextforge-gateway")
    ]


def test_a_process_is_measured_with_its_children() -> None:
    parent = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[1])
    mine = int(Path("/proc/self").resolve().name)
    assert mine in with_children(parent)
    assert processor_seconds(mine) > 0
    assert sum(own_seconds(mine).values()) > 0
    assert resident_mb(mine) > 1


def test_steps_are_told_a_call_the_dearest_first_with_the_bounds_that_follow() -> None:
    before = {stopwatch.CALL: [0, 10], "parse": [5_000, 10]}
    after = {stopwatch.CALL: [40_000, 30], "parse": [105_000, 50], "new": [20_000, 20]}
    steps = steps_between(before, after)
    assert [(step.name, step.us, step.times) for step in steps] == [
        ("parse", 5.0, 2.0),
        (stopwatch.CALL, 2.0, 1.0),
        ("new", 1.0, 1.0),
    ]
    profile = Profile(32, 20, 0, 4, {"gateway": 500.0, "opa": 100.0}, steps, 1.0)
    assert round(profile.bound_by_cores) == 6667
    assert profile.bound_by_python == 2000
    told = report(profile)
    assert "  parse                                 5.0   62.5%    2.00" in told
    assert told.endswith("the next limit is the gateway's one core; in it: parse")


def test_a_profile_of_a_second_accounts_for_every_step_of_the_pipeline() -> None:
    needs("wrk", "install your system's package of it")
    needs("nginx", "install your system's package of it")
    needs("opa", "gateway opa install")
    command = [sys.executable, "-m", "benchmarks.profile", "--seconds", "1", "--json"]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    profile = json.loads(run.stdout)
    assert profile["failed"] == 0
    assert set(profile["processes"]) == {"gateway", "opa", "upstream", "load"}
    steps = {step["name"]: step for step in profile["steps"]}
    assert set(stopwatch.STEPS) | {stopwatch.LOOP} == set(steps)
    assert steps[stopwatch.CALL]["times"] == 1
    # A call may have begun before the watch was read, and end after it.
    assert steps["policy: question"]["times"] == pytest.approx(1, abs=0.5)
    assert 0 < profile["bound_by_cores"] < 1e6
