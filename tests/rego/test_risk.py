"""Risk against a real OPA: the documented words, and what real servers call their tools."""

import json
import subprocess
from typing import Any

import pytest

from tests.rego.conftest import REGO, OpaServer

RANK = {"LOW": 0, "MEDIUM": 1, "HIGH": 2, "CRITICAL": 3}

EXPECTED = {
    "reading": {"LOW"},
    "unrecognised": {"MEDIUM"},
    "changing": {"MEDIUM", "HIGH"},
    "harmful": {"HIGH", "CRITICAL"},
    "running": {"CRITICAL"},
}


@pytest.fixture(scope="module")
def names(opa: str) -> dict[str, list[str]]:
    """The names of real tools, by category, from the fixture that OPA's own tests use."""
    source = REGO / "gateway" / "risk" / "real_tools_test.rego"
    wanted = (
        "{" + ", ".join(f'"{one}": data.gateway.real_tools_test.{one}' for one in EXPECTED) + "}"
    )
    done = subprocess.run(
        [opa, "eval", "--format", "raw", "--data", source, wanted],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def levels(server: OpaServer, tools: list[dict[str, Any]]) -> list[str]:
    answer = server.ask("gateway/risks", {"tools": tools})
    return [found["level"] for found in answer.json()["result"]]


@pytest.mark.parametrize("category", EXPECTED)
def test_real_tools_have_the_risk_of_their_category(
    server: OpaServer, names: dict[str, list[str]], category: str
) -> None:
    tools = [{"name": name} for name in names[category]]
    wrong = {
        tool["name"]: level
        for tool, level in zip(tools, levels(server, tools), strict=True)
        if level not in EXPECTED[category]
    }
    assert wrong == {}


def test_one_tool_and_many_tools_are_assessed_alike(
    server: OpaServer, names: dict[str, list[str]]
) -> None:
    tools = [{"name": name} for listed in names.values() for name in listed[:5]]
    many = server.ask("gateway/risks", {"tools": tools}).json()["result"]
    one_by_one = [server.ask("gateway/risk", {"tool": tool}).json()["result"] for tool in tools]
    assert many == one_by_one


@pytest.mark.parametrize(
    ("name", "description", "level"),
    [
        ("soqlQuery", "Executes a SOQL query against the org.", "LOW"),
        ("find", "Executes a SOSL search across objects.", "LOW"),
        ("run_apex_test", "Run Apex tests in your org.", "MEDIUM"),
        ("sendMail", "Sends a mail.", "HIGH"),
        ("mcp_graph_teams_replyToChannelMessage", "Replies within a thread.", "HIGH"),
        ("score_issues", "Scores the readiness of issues.", "MEDIUM"),
        ("get_thing", "Deletes the thing.", "HIGH"),
        ("do_it", "Execute arbitrary code.", "CRITICAL"),
    ],
)
def test_words_count_whole_and_the_name_counts_most(
    server: OpaServer, name: str, description: str, level: str
) -> None:
    assert levels(server, [{"name": name, "description": description}]) == [level]


def test_a_server_cannot_lower_a_risk(server: OpaServer) -> None:
    plain = {"name": "delete_everything"}
    praised = plain | {
        "description": "A read-only search that lists things.",
        "annotations": {"readOnlyHint": True, "destructiveHint": False},
    }
    before, after = levels(server, [plain, praised])
    assert RANK[after] >= RANK[before]


@pytest.mark.parametrize("tool", [None, {}, "get", 1, {"name": None}, {"name": ["get"]}])
def test_a_definition_that_cannot_be_read_is_critical(server: OpaServer, tool: object) -> None:
    answer = server.ask("gateway/risk", {"tool": tool}).json()["result"]
    assert answer["level"] == "CRITICAL"


@pytest.mark.parametrize(
    "schema", [None, [], "x", {"properties": None}, {"properties": ["command"]}, {"properties": {}}]
)
def test_a_schema_of_any_shape_is_survived(server: OpaServer, schema: object) -> None:
    assert levels(server, [{"name": "get_x", "inputSchema": schema, "annotations": schema}])
