package gateway.listing_test

import rego.v2

import data.gateway.decision_test

member := {"policy_id": "p", "reason": "because"}

shared(document) := object.union(
	object.remove(document, ["tool", "rules", "arguments", "call"]),
	{"call": {"source": "mcp", "method": "tools/list", "phase": "list", "era": "modern"}},
)

listed(document) := hidden if {
	page := {"shared": shared(document), "tools": [{"tool": document.tool, "rules": document.rules}]}
	hidden := data.gateway.listing.hidden with input as page with data.bundle.hides as true
}

decided(document) := decision if {
	decision := data.gateway.decision with input as document with data.bundle.hides as true
}

test_what_a_rule_denies_is_hidden if {
	every action, count_ in {"DENY": 1, "REQUIRE_APPROVAL": 0, "LOG_ONLY": 0, "ALLOW": 0} {
		rules := [decision_test.rule("1", action, {})]
		document := decision_test.with_rules(decision_test.whole, rules)
		count(listed(document)) == count_
	}
}

test_what_a_doubtful_agents_rule_denies_is_hidden if {
	rules := [decision_test.rule("1", "DENY", {"agent_id": "agt_1"})]
	document := decision_test.with_rules(decision_test.asserted, rules)
	listed(document) == {"query_records"}
	decided(document).action == "DENY"
}

test_a_hidden_set_of_each_route_hides_and_denies if {
	every routes in [
		{"all": {"h": {"hidden": {member}}}},
		{"project": {"crm": {"h": {"hidden": {member}}}}},
		{"server": {"sales": {"h": {"hidden": {member}}}}},
		{"agent": {"clerk": {"h": {"hidden": {member}}}}},
		{"tool": {"query_records": {"h": {"hidden": {member}}}}},
	] {
		listed(decision_test.whole) == {"query_records"} with data.policies as routes
		decision := decided(decision_test.whole) with data.policies as routes
		decision.action == "DENY"
		decision.policy_ids == ["p"]
		decision.reasons == ["because"]
	}
}

test_another_routes_hidden_set_hides_nothing if {
	routes := {"tool": {"other": {"h": {"hidden": {member}}}}}
	listed(decision_test.whole) == set() with data.policies as routes
	decision := decided(decision_test.whole) with data.policies as routes
	decision.action == "ALLOW"
}

test_whatever_a_member_is_it_hides if {
	every hidden in [{"x"}, {null}, {{"policy_id": "p"}}, {{"reason": "r"}}, "no set"] {
		routes := {"all": {"h": {"hidden": hidden}}}
		listed(decision_test.whole) == {"query_records"} with data.policies as routes
		decision := decided(decision_test.whole) with data.policies as routes
		decision.action == "DENY"
	}
}

test_an_override_shows_what_a_template_hides if {
	template := {"h": {"findings": set(), "hidden": {member}}}
	connectors := {"salesforce": template}
	listed(decision_test.templated) == {"query_records"} with data.connectors as connectors
	shown := json.patch(decision_test.templated, [{
		"op": "replace",
		"path": "/server/overrides",
		"value": [{
			"policy_id": "p",
			"action": "ALLOW",
			"agent_id": null,
			"expires_at": "2026-12-01T00:00:00Z",
			"reason": "asked for",
		}],
	}])
	listed(shown) == set() with data.connectors as connectors
	decision := decided(shown) with data.connectors as connectors
	decision.action == "ALLOW"
}

test_without_hidden_sets_in_the_bundle_none_is_asked if {
	listed_without := data.gateway.listing.hidden with input as {
		"shared": shared(decision_test.whole),
		"tools": [{"tool": decision_test.whole.tool, "rules": []}],
	}
		with data.policies as {"all": {"h": {"hidden": {member}}}}
	listed_without == set()
}

test_a_call_that_cannot_be_understood_is_still_denied if {
	every document in [null, {}, [], "x"] {
		decided(document).action == "DENY"
	}
}
