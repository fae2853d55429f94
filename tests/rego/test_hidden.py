"""A tool that a list leaves out is denied, whatever it is called with."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rego.conftest import OpaServer
from tests.rego.test_router import a_document, finding, override, rule

ACTIONS = ("ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY")
BINDINGS = ((), ("agent_id",), ("server_id",), ("tool_id",), ("tool_pattern", "agent_id"))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
arguments = st.dictionaries(
    st.sampled_from(["findings", "limit", "amount", "hide", "x"]), json_values, max_size=4
)
members = st.sampled_from(
    [
        {"policy_id": "p", "reason": "because"},
        {"policy_id": "q", "reason": "because"},
        {"hide": "if an argument is there"},
        {"hide": "if no argument is there"},
        "x",
    ]
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Calls whose policies, in the told bundle, hide what `params.hide` and `.hidden` say."""
    actions = st.sampled_from(ACTIONS)
    bound = draw(st.lists(st.tuples(actions, st.sampled_from(BINDINGS)), max_size=3))
    rules = [rule(action, *bindings) for action, bindings in bound]
    document = a_document(
        default=draw(actions),
        asserted=draw(st.booleans()),
        rules=rules,
        template=[finding(action) for action in draw(st.lists(actions, max_size=1))],
        overrides=[
            override(action, agent)
            for action, agent in draw(
                st.lists(st.tuples(actions, st.sampled_from([None, "agt_1", "agt_2"])), max_size=2)
            )
        ],
    )
    document["server"]["params"]["hides"] = True
    document["server"]["params"]["hide"] = draw(st.lists(members, max_size=2))
    document["server"]["params"]["hidden"] = draw(st.lists(members, max_size=2))
    document["arguments"] = draw(arguments)
    return document


def hidden(server: OpaServer, document: dict[str, Any]) -> bool:
    call = {"source": "mcp", "method": "tools/list", "phase": "list", "era": "modern"}
    parts = ("version", "project", "agent", "server", "context")
    shared = {**{part: document[part] for part in parts}, "call": call}
    page = {"shared": shared, "tools": [{part: document[part] for part in ("tool", "rules")}]}
    response = server.ask("gateway/listing/hidden", page)
    assert response.status_code == 200, response.text
    names = response.json()["result"]
    assert names in ([], [document["tool"]["name"]])
    return bool(names)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents())
def test_hidden_means_denied_for_any_arguments(server: OpaServer, document: dict[str, Any]) -> None:
    if hidden(server, document):
        assert server.decide(document)["action"] == "DENY", json.dumps(document)


@pytest.mark.parametrize("place", ["hide", "hidden"])
def test_the_told_policies_do_hide(server: OpaServer, place: str) -> None:
    document = a_document(template=[])
    document["server"]["params"]["hides"] = True
    assert not hidden(server, document)
    document["server"]["params"][place] = [{"policy_id": "q", "reason": "because"}]
    assert hidden(server, document)
    assert server.decide(document)["policy_ids"] == ["q"]


def test_a_set_that_reads_arguments_all_the_same_sees_none_in_either_phase(
    server: OpaServer,
) -> None:
    document = a_document()
    document["server"]["params"]["hides"] = True
    document["arguments"] = {"hide": True}
    for condition, expected in (("an argument", False), ("no argument", True)):
        document["server"]["params"]["hide"] = [{"hide": f"if {condition} is there"}]
        assert hidden(server, document) is expected
        action = server.decide(document)["action"]
        assert (action == "DENY") is expected
