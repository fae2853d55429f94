"""What `/metrics` tells: bounded labels, every name that the dashboard and the alerts use."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gateway.policy.activation import Active, Failure, PolicyStatus
from gateway.policy.engine import EngineFault
from gateway.policy.opa import OpaStatus
from gateway.refusals import REASONS, Refused
from gateway.registry.stop_file import StopFile
from gateway.telemetry.counters import BOUNDS, Counters, Durations
from gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from gateway.trace.checkpoint import Checkpoints
from gateway.values import Action, Era, Fate, Forwarded
from tests.builders import a_body, a_request, a_state
from tests.mcp.builders import STREAM_HEAD, a_permit, a_server, chunk, event, upstreams
from tests.mcp.builders import a_request as an_mcp_request
from tests.pipeline_world import Line, a_line
from tests.postgresql import a_database
from tests.raw_server import Peer, raw_server

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
BOARD = ROOT / "deploy" / "grafana" / "policy-gateway.json"
OPERATIONS = ROOT / "docs" / "operations.md"
TOKEN = "the-token"
LABELS = {
    "action": {action.value for action in Action},
    "reason_code": {"", "admitted", *REASONS},
    "fate": {fate.value for fate in Fate},
    "status": {"401", "403", "404", "429"},
    "code": {"-32700", "-32600", "-32602"},
    "step": {"policy", "admission", "forward", "call"},
    "state": {"PENDING", "ANCHORED", "SKIPPED", "FAILED"},
    "le": {*map(repr, BOUNDS), "+Inf"},
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with a_state(tmp_path) as world:
        yield a_line(world)


def the_metrics(line: Line, **policy: Any) -> Metrics:
    active = Active("r1", "sha256:00", "2026-01-01T00:00:00Z", {})
    status = PolicyStatus(policy.get("active", active), None, policy.get("failure"))
    opa = OpaStatus(True, True, "r1", 2, "")
    return Metrics(
        token=TOKEN.encode(),
        state=line.world.state,
        pipeline=line.pipeline,
        opa=cast(Any, SimpleNamespace(status=lambda: opa)),
        policy=cast(Any, SimpleNamespace(status=lambda: status)),
        stop_file=StopFile(line.world.state.data_dir),
    )


async def ask(metrics: Metrics, token: str = TOKEN, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(app=metrics)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.request(method, "/metrics", headers=headers)


async def samples(metrics: Metrics) -> Samples:
    answer = await ask(metrics)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def test_only_the_token_opens_it(line: Line) -> None:
    metrics = the_metrics(line)
    for token in ("", "another", TOKEN + "x"):
        assert (await ask(metrics, token)).status_code == 401
    assert (await ask(metrics, method="POST")).status_code == 405


async def test_calls_are_counted_by_action_and_reason(line: Line) -> None:
    await line.handle(a_request())
    line.policy.action = Action.DENY
    await line.handle(a_request())
    line.policy.action = Action.REQUIRE_APPROVAL
    await line.handle(a_request())

    async def down() -> None:
        raise Refused("policy_unavailable", detail=str(EngineFault("OPA is down")))

    line.policy.meanwhile = down
    await line.handle(a_request())
    await line.handle(a_request(headers=()))
    await line.handle(a_request(b"{"))
    found = await samples(the_metrics(line))
    decisions = {
        (labels["action"], labels["reason_code"]): value
        for (name, pairs), value in found.items()
        if name == "gateway_decisions_total" and (labels := dict(pairs))
    }
    assert decisions == {
        ("ALLOW", "admitted"): 1,
        ("DENY", "policy_denied"): 1,
        ("REQUIRE_APPROVAL", "approval_required"): 1,
        ("DENY", "policy_unavailable"): 1,
    }
    assert of(found, "gateway_forwards_total", fate="answered", reason_code="") == 1
    assert of(found, "gateway_unauthenticated_requests_total", status="401") == 1
    assert of(found, "gateway_unreadable_messages_total", code="-32700") == 1
    assert of(found, "gateway_approvals_pending") == 1
    for step, calls in {"policy": 4, "admission": 2, "forward": 1, "call": 4}.items():
        assert of(found, "gateway_step_seconds_count", step=step) == calls
        assert of(found, "gateway_step_seconds_bucket", step=step, le="+Inf") == calls


async def test_what_a_budget_refuses_is_counted_apart(line: Line) -> None:
    line.world.add_budget(1)
    for _ in range(3):
        await line.handle(a_request())
    found = await samples(the_metrics(line))
    assert of(found, "gateway_budget_refusals_total") == 2


async def test_a_call_of_unknown_outcome_is_counted_with_its_reason(line: Line) -> None:
    line.upstreams.answer = Forwarded(Fate.UNKNOWN, reason="upstream_error")
    await line.handle(a_request())
    found = await samples(the_metrics(line))
    assert of(found, "gateway_forwards_total", fate="unknown", reason_code="upstream_error") == 1


async def test_a_stream_is_counted_until_it_ends(line: Line) -> None:
    first = event(b"{}")

    async def streaming(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD + chunk(first))
        await peer.gone()

    async with raw_server(streaming) as raw:
        ups = upstreams()
        pipeline = replace(line.pipeline, upstreams=ups)
        metrics = the_metrics(replace(line, pipeline=pipeline))
        server = a_server(raw.port)
        forwarded = await ups.forward(a_permit(server, an_mcp_request(), Era.MODERN), lambda: None)
        assert forwarded.stream is not None
        assert of(await samples(metrics), "gateway_streams_open") == 1
        await forwarded.stream.aclose()
        assert of(await samples(metrics), "gateway_streams_open") == 0
        await ups.close()


async def test_a_stop_and_the_unsigned_end_of_the_log_show(line: Line) -> None:
    state = line.world.state
    line.world.add_stop()
    await line.handle(a_request())
    await line.quiet()
    found = await samples(the_metrics(line))
    assert of(found, "gateway_emergency_stops") == 1
    assert of(found, "gateway_log_records") == state.log.size > 0
    assert of(found, "gateway_log_unsigned_records") == state.log.size
    assert of(found, "gateway_database_bytes") > 0

    await state.writer.change(Checkpoints(state.log, state.keyring, None).make)
    found = await samples(the_metrics(line))
    assert of(found, "gateway_log_signed_records") == state.log.size
    assert of(found, "gateway_log_unsigned_records") == 0


async def test_the_size_of_a_shared_database_is_the_servers(tmp_path: Path) -> None:
    with a_database() as place, a_state(tmp_path, place) as world:
        found = await samples(the_metrics(a_line(world)))
        [(size,)] = world.rows("SELECT pg_database_size(current_database())")
        assert of(found, "gateway_database_bytes") == pytest.approx(size, rel=0.1)


async def test_how_opa_and_the_policy_are_is_told(line: Line) -> None:
    broken = Failure("does not parse", "a.rego", 1, "2026-01-01T00:00:00Z", None)
    found = await samples(the_metrics(line, failure=broken, active=None))
    assert of(found, "gateway_opa_ready") == 1
    assert of(found, "gateway_opa_restarts_total") == 2
    assert of(found, "gateway_policy_sources_broken") == 1
    assert of(found, "gateway_policy_active_since_seconds") == 0
    assert of(await samples(the_metrics(line)), "gateway_policy_sources_broken") == 0


async def everything(line: Line) -> Samples:
    """With something in every metric that has labels."""
    await line.handle(a_request())
    await line.handle(a_request(headers=()))
    await line.handle(a_request(b"{"))
    await line.handle(a_request(a_body("no_such_tool")))
    return await samples(the_metrics(line))


async def test_no_label_holds_what_a_caller_or_a_server_names(line: Line) -> None:
    found = await everything(line)
    ours = [(name, label) for name, labels in found for label in labels if "gateway_" in name]
    assert {label for _, (label, _) in ours} == LABELS.keys()
    assert [
        (name, label, value) for name, (label, value) in ours if value not in LABELS[label]
    ] == []


NAME = re.compile(r"\b((?:gateway|process)_[a-z_]+)\b")


def named(expressions: list[str]) -> set[str]:
    return {name for one in expressions for name in NAME.findall(one)}


def on_the_board() -> list[str]:
    board = json.loads(BOARD.read_text())
    variables = [
        entry["query"]["query"]
        for entry in board["templating"]["list"]
        if isinstance(entry["query"], dict)
    ]
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]] + variables


def in_the_alerts() -> list[str]:
    return [rule["expr"] for group in alerts() for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"]
    return groups


async def test_the_board_and_the_alerts_name_only_metrics_that_are_served(line: Line) -> None:
    served = {name for name, _ in await everything(line)}
    assert named(on_the_board()) - served == set()
    assert named(in_the_alerts()) - served == set()


async def test_the_board_and_the_alerts_compare_labels_with_values_that_occur() -> None:
    matchers = re.compile(r'(\w+)\s*(?:=~|!=|=)\s*"([^"]*)"')
    for expression in [*on_the_board(), *in_the_alerts()]:
        for label, value in matchers.findall(expression):
            if label in LABELS:
                assert set(value.split("|")) <= LABELS[label], expression
            else:
                assert label in ("instance", "job"), expression


async def test_the_page_names_every_metric_and_every_alert_and_no_other(line: Line) -> None:
    suffixes = re.compile(r"_(?:bucket|sum|count)$")
    served = {suffixes.sub("", name) for name, _ in await everything(line)}
    rows = set(re.findall(r"^\| `(gateway_\w+)", OPERATIONS.read_text(), re.M))
    assert rows == {name for name in served if name.startswith("gateway_")}
    told = set(re.findall(r"^\| `(Gateway\w+)`", OPERATIONS.read_text(), re.M))
    assert told == {rule["alert"] for group in alerts() for rule in group["rules"]}


def test_an_alert_says_how_bad_it_is_and_what_it_means() -> None:
    rules = [rule for group in alerts() for rule in group["rules"]]
    assert all(rule["labels"]["severity"] in ("critical", "warning") for rule in rules)
    assert all(rule["annotations"]["summary"].endswith(".") for rule in rules)
    assert all(set(rule) <= {"alert", "expr", "for", "labels", "annotations"} for rule in rules)


def test_a_duration_lies_in_the_bucket_that_its_bound_closes() -> None:
    policy = Counters().policy
    policy.since(float("-inf"))
    assert policy.counts == [0] * len(BOUNDS) + [1]
    policy.since(float("inf"))
    assert policy.counts[0] == 1


def test_a_quantile_lies_in_the_bucket_that_holds_it() -> None:
    took = Durations()
    assert took.quantile(0.5) is None
    took.counts[2] = 98  # up to 2.5 ms
    took.counts[6] = 2  # up to 50 ms
    half, most = took.quantile(0.5), took.quantile(0.99)
    assert half is not None
    assert most is not None
    assert 0.001 < half <= 0.0025
    assert 0.025 < most <= 0.05
    took.counts[-1] = 1000
    assert took.quantile(0.5) == 30.0
