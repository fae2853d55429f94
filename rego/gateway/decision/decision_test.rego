package gateway.decision_test

import rego.v2

whole := {
	"version": 1,
	"project": {"id": "prj_1", "slug": "crm", "default_action": "ALLOW"},
	"agent": {"id": "agt_1", "name": "clerk", "asserted": false},
	"server": {
		"id": "srv_1",
		"slug": "sales",
		"origin": "https://crm.example",
		"template": null,
		"params": {},
		"overrides": [],
	},
	"tool": {
		"name": "query_records",
		"risk": "LOW",
		"risk_computed": "LOW",
		"pin": "ACCEPTED",
		"annotations": {},
		"definition_sha256": "ab",
	},
	"rules": [],
	"arguments": {"limit": 5},
	"call": {
		"source": "mcp",
		"method": "tools/call",
		"phase": "call",
		"era": "modern",
		"session": null,
		"task": null,
		"meta": {},
		"input_responses": null,
		"is_retry": false,
	},
	"context": {"time": "2026-11-22T10:00:00Z", "client_ip": "127.0.0.1"},
}

templated := json.patch(whole, [{"op": "replace", "path": "/server/template", "value": "salesforce"}])

asserted := json.patch(whole, [{"op": "replace", "path": "/agent/asserted", "value": true}])

rule(id, action, bindings) := object.union(
	{
		"id": id,
		"action": action,
		"agent_id": null,
		"server_id": null,
		"tool_id": null,
		"tool_pattern": null,
		"min_risk": null,
		"reason": "",
	},
	bindings,
)

finding(action) := {"action": action, "policy_id": lower(action), "reason": "because"}

with_rules(document, rules) := object.union(document, {"rules": rules})

with_default(document, action) := json.patch(document, [{"op": "replace", "path": "/project/default_action", "value": action}])

override(action, bindings) := object.union(
	{
		"policy_id": "deny",
		"action": action,
		"agent_id": null,
		"expires_at": "2026-12-01T00:00:00Z",
		"reason": "asked for",
	},
	bindings,
)

with_overrides(document, overrides) := json.patch(document, [{"op": "replace", "path": "/server/overrides", "value": overrides}])

tool := {"tool_id": "tol_1"}

agent := {"agent_id": "agt_1"}

server := {"server_id": "srv_1"}

pattern := {"tool_pattern": "query_*"}

# The table of record: what outranks what.
test_nothing_matches_and_the_default_allows if {
	decision := data.gateway.decision with input as whole
	decision == {
		"action": "ALLOW",
		"policy_ids": ["gateway.default"],
		"reasons": ["the project's default: no rule and no template policy matches"],
		"obligations": [],
	}
}

test_every_default_action_is_what_applies_when_nothing_matches if {
	every action in ["ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY"] {
		data.gateway.decision.action == action with input as with_default(whole, action)
	}
}

test_an_exact_tool_outranks_the_project if {
	rules := [rule("1", "DENY", {}), rule("2", "ALLOW", tool)]
	decision := data.gateway.decision with input as with_rules(whole, rules)
	decision.action == "ALLOW"
	decision.policy_ids == ["rule:2"]
}

test_a_tool_rule_outranks_an_agent_rule if {
	rules := [rule("1", "LOG_ONLY", tool), rule("2", "DENY", agent)]
	data.gateway.decision.action == "LOG_ONLY" with input as with_rules(whole, rules)
}

test_only_an_override_loosens_a_template if {
	rules := [rule("1", "ALLOW", object.union(agent, tool))]
	data.gateway.decision.action == "DENY" with input as with_rules(templated, rules)
		with data.connectors as {"salesforce": {"p": {"findings": {finding("DENY")}}}}
}

test_an_override_for_one_agent_holds_for_it_alone if {
	theirs := with_overrides(templated, [override("REQUIRE_APPROVAL", {"agent_id": "agt_2"})])
	ours := with_overrides(templated, [override("REQUIRE_APPROVAL", agent)])
	connectors := {"salesforce": {"p": {"findings": {finding("DENY")}}}}
	data.gateway.decision.action == "REQUIRE_APPROVAL" with input as ours with data.connectors as connectors
	data.gateway.decision.action == "DENY" with input as theirs with data.connectors as connectors
}

test_the_organisation_tightens_whatever_the_others_say if {
	strict := {"all": {"p": {"findings": {finding("REQUIRE_APPROVAL")}}}}
	every document in [whole, with_rules(whole, [rule("1", "ALLOW", object.union(agent, tool))])] {
		data.gateway.decision.action == "REQUIRE_APPROVAL" with input as document with data.policies as strict
	}
	data.gateway.decision.action == "DENY" with input as with_rules(whole, [rule("1", "DENY", {})])
		with data.policies as strict
}

test_an_allow_of_the_organisation_changes_nothing if {
	mild := {"all": {"p": {"findings": {finding("ALLOW")}}}}
	plain := data.gateway.decision with input as whole with data.policies as mild
	plain.policy_ids == ["gateway.default"]
	data.gateway.decision.action == "DENY" with input as with_default(whole, "DENY") with data.policies as mild
}

test_the_tiers_from_the_most_specific_to_the_least if {
	tiers := [
		object.union(tool, agent), tool,
		object.union(object.union(pattern, agent), server), object.union(pattern, agent),
		object.union(pattern, server), pattern,
		object.union(agent, server), agent,
		server, {},
	]
	every place in numbers.range(0, 8) {
		rules := [rule("low", "DENY", tiers[place + 1]), rule("high", "ALLOW", tiers[place])]
		data.gateway.decision.policy_ids == ["rule:high"] with input as with_rules(whole, rules)
	}
}

test_a_server_beside_a_tool_makes_no_tier if {
	rules := [rule("1", "ALLOW", object.union(tool, server)), rule("2", "DENY", tool)]
	data.gateway.decision.action == "DENY" with input as with_rules(whole, rules)
}

test_within_a_tier_the_strictest_counts if {
	rules := [rule("1", "ALLOW", pattern), rule("2", "DENY", pattern), rule("3", "LOG_ONLY", pattern)]
	decision := data.gateway.decision with input as with_rules(whole, rules)
	decision.action == "DENY"
	decision.policy_ids == ["rule:2"]
}

test_the_reason_of_a_rule_is_told if {
	rules := [rule("1", "DENY", {"reason": "frozen"})]
	data.gateway.decision.reasons == ["frozen"] with input as with_rules(whole, rules)
}

test_no_rule_loosens_for_an_asserted_agent if {
	own := rule("own", "ALLOW", object.union(agent, tool))
	every action in ["LOG_ONLY", "REQUIRE_APPROVAL", "DENY"] {
		data.gateway.decision.action == action with input as with_rules(asserted, [own, rule("1", action, {})])
		data.gateway.decision.action == action with input as with_rules(with_default(asserted, action), [own])
	}
	approval := object.union(own, {"action": "REQUIRE_APPROVAL"})
	data.gateway.decision.action == "DENY" with input as with_rules(asserted, [approval, rule("1", "DENY", agent)])
}

test_a_rule_still_tightens_for_an_asserted_agent if {
	data.gateway.decision.action == "DENY" with input as with_rules(asserted, [rule("1", "DENY", agent)])
	data.gateway.decision.action == "DENY" with input as with_rules(asserted, [
		rule("1", "ALLOW", pattern),
		rule("2", "DENY", object.union(pattern, agent)),
	])
}

test_an_outranked_rule_does_not_tighten_for_an_asserted_agent if {
	rules := [rule("1", "LOG_ONLY", tool), rule("2", "DENY", agent)]
	data.gateway.decision.action == "LOG_ONLY" with input as with_rules(asserted, rules)
}

test_an_unreadable_rule_denies if {
	every broken in [
		rule("1", "allow", {}), rule(1, "ALLOW", {}), "ALLOW", null,
		object.remove(rule("1", "ALLOW", {}), ["tool_id"]),
	] {
		decision := data.gateway.decision with input as with_rules(whole, [broken, rule("2", "ALLOW", tool)])
		decision.action == "DENY"
		decision.policy_ids == ["gateway.input_incomplete"]
	}
}

test_a_template_and_a_rule_make_the_base_by_the_stricter if {
	connectors := {"salesforce": {"p": {"findings": {finding("LOG_ONLY")}}}}
	data.gateway.decision.action == "LOG_ONLY" with input as templated with data.connectors as connectors
	data.gateway.decision.action == "LOG_ONLY" with input as with_default(templated, "DENY")
		with data.connectors as connectors
	data.gateway.decision.action == "REQUIRE_APPROVAL" with input as with_rules(templated, [rule("1", "REQUIRE_APPROVAL", {})])
		with data.connectors as connectors
}

test_a_template_that_finds_nothing_leaves_the_default if {
	decision := data.gateway.decision with input as templated
		with data.connectors as {"salesforce": {"p": {"findings": set()}}}
	decision.policy_ids == ["gateway.default"]
}

test_a_template_without_a_package_denies if {
	every connectors in [{}, {"salesforce": {}}, {"Salesforce": {"p": {"findings": set()}}}, {"salesforce": {"p": {"other": 1}}}] {
		decision := data.gateway.decision with input as with_rules(templated, [rule("1", "ALLOW", tool)])
			with data.connectors as connectors
		decision.action == "DENY"
		decision.policy_ids == ["gateway.template_missing"]
	}
}

test_a_template_in_the_wrong_case_denies if {
	document := json.patch(whole, [{"op": "replace", "path": "/server/template", "value": "Salesforce"}])
	decision := data.gateway.decision with input as document
		with data.connectors as {"salesforce": {"p": {"findings": {finding("ALLOW")}}}}
	decision.policy_ids == ["gateway.template_missing"]
}

test_overrides if {
	connectors := {"salesforce": {"p": {"findings": {finding("DENY")}}}}
	cases := [
		[[override("ALLOW", {})], "ALLOW"],
		[[override("ALLOW", {"policy_id": "other"})], "DENY"],
		[[override("ALLOW", {"expires_at": "2026-11-22T10:00:00Z"})], "DENY"],
		[[override("ALLOW", {"expires_at": "2026-11-22T11:00:00+02:00"})], "DENY"],
		[[override("ALLOW", {}), override("LOG_ONLY", {})], "LOG_ONLY"],
		[[override("REQUIRE_APPROVAL", {}), override("ALLOW", agent)], "ALLOW"],
	]
	every case in cases {
		[overrides, action] := case
		data.gateway.decision.action == action with input as with_overrides(templated, overrides)
			with data.connectors as connectors
	}
}

test_an_override_for_an_asserted_agent_may_only_tighten if {
	named := json.patch(templated, [{"op": "replace", "path": "/agent/asserted", "value": true}])
	connectors := {"salesforce": {"p": {"findings": {object.union(finding("LOG_ONLY"), {"policy_id": "deny"})}}}}
	cases := [
		[[override("ALLOW", agent)], "LOG_ONLY"],
		[[override("DENY", agent)], "DENY"],
		[[override("REQUIRE_APPROVAL", {}), override("ALLOW", agent)], "REQUIRE_APPROVAL"],
		[[override("ALLOW", {})], "ALLOW"],
	]
	every case in cases {
		[overrides, action] := case
		data.gateway.decision.action == action with input as with_overrides(named, overrides)
			with data.connectors as connectors
	}
}

test_an_override_holds_without_an_agent if {
	document := json.patch(with_overrides(templated, [override("ALLOW", {})]), [{"op": "replace", "path": "/agent", "value": null}])
	data.gateway.decision.action == "ALLOW" with input as document
		with data.connectors as {"salesforce": {"p": {"findings": {finding("DENY")}}}}
}

test_an_unreadable_override_denies if {
	every broken in [override("allow", {}), override("ALLOW", {"expires_at": null}), override("ALLOW", {"policy_id": 1}), "ALLOW"] {
		decision := data.gateway.decision with input as with_overrides(templated, [broken])
			with data.connectors as {"salesforce": {"p": {"findings": {finding("ALLOW")}}}}
		decision.policy_ids == ["gateway.override_unreadable"]
	}
}

test_every_route_reaches_its_policies if {
	denying := {"p": {"findings": {finding("DENY")}}}
	every routes in [
		{"all": denying}, {"project": {"crm": denying}}, {"server": {"sales": denying}},
		{"agent": {"clerk": denying}}, {"tool": {"query_records": denying}},
	] {
		data.gateway.decision.action == "DENY" with input as whole with data.policies as routes
	}
	every routes in [
		{"project": {"CRM": denying}}, {"server": {"crm": denying}},
		{"agent": {"agt_1": denying}}, {"tool": {"other": denying}},
	] {
		data.gateway.decision.action == "ALLOW" with input as whole with data.policies as routes
	}
}

test_a_malformed_finding_denies if {
	every broken in [
		{"x"}, {null}, {1}, {["DENY"]}, {{}}, {{"action": "ALLOW"}}, {{"action": "ALLOW", "policy_id": 1}},
		"ALLOW", true, {"action": "ALLOW", "policy_id": "p"}, [finding("ALLOW")],
	] {
		decision := data.gateway.decision with input as whole with data.policies as {"all": {"p": {"findings": broken}}}
		decision.policy_ids == ["gateway.malformed_finding"]
		decision.action == "DENY"
	}
}

test_an_unknown_action_denies_under_its_own_policy if {
	every broken in [{"policy_id": "p"}, {"policy_id": "p", "action": "allow"}, {"policy_id": "p", "action": null}, {"policy_id": "p", "action": ["DENY"]}] {
		decision := data.gateway.decision with input as whole with data.policies as {"tool": {"query_records": {"p": {"findings": {broken}}}}}
		decision.action == "DENY"
		decision.policy_ids == ["p"]
	}
}

test_a_finding_without_a_reason_says_so if {
	decision := data.gateway.decision with input as whole with data.policies as {"all": {"p": {"findings": {{"action": "DENY", "policy_id": "p"}}}}}
	decision.reasons == ["no reason given"]
}

test_ids_and_reasons_are_those_that_decided_sorted if {
	decision := data.gateway.decision with input as whole with data.policies as {"all": {"p": {"findings": {
		{"action": "DENY", "policy_id": "b", "reason": "y"},
		{"action": "DENY", "policy_id": "a", "reason": "z"},
		finding("LOG_ONLY"),
	}}}}
	decision.policy_ids == ["a", "b"]
	decision.reasons == ["y", "z"]
}

test_an_input_that_is_no_document_denies if {
	every document in [{}, null, [], "x", 1] {
		decision := data.gateway.decision with input as document
		decision.action == "DENY"
		"gateway.input_incomplete" in decision.policy_ids
	}
}

test_every_field_is_needed if {
	paths := array.concat(
		[[name] | some name in object.keys(whole)],
		[[name, inner] | some name in ["project", "agent", "server", "tool", "call", "context"]; some inner in object.keys(whole[name])],
	)
	count(paths) > 35
	every path in paths {
		data.gateway.decision.action == "DENY" with input as json.remove(whole, [path])
	}
}

test_a_rule_speaks_for_no_call_whose_parts_are_missing if {
	every path in [
		["project"], ["agent"], ["server"], ["tool"], ["rules"], ["arguments"], ["call"], ["context"],
		["project", "slug"], ["server", "slug"], ["server", "template"], ["server", "overrides"],
		["tool", "name"], ["agent", "id"], ["agent", "name"], ["agent", "asserted"],
		["call", "method"], ["context", "time"],
	] {
		document := json.remove(with_rules(whole, [rule("1", "ALLOW", tool)]), [path])
		data.gateway.decision.action == "DENY" with input as document
	}
}

test_every_field_needs_its_type if {
	any_type := {"call/task", "call/input_responses"}
	paths := {concat("/", [name, inner]) |
		some name in ["project", "agent", "server", "tool", "call", "context"]
		some inner in object.keys(whole[name])
	} | {"version", "agent", "rules", "arguments"}
	every path in paths - any_type {
		data.gateway.decision.action == "DENY" with input as json.patch(whole, [{"op": "replace", "path": path, "value": 7}])
	}
}

test_a_field_that_the_schema_does_not_know_denies if {
	data.gateway.decision.action == "DENY" with input as object.union(whole, {"extra": 1})
}

test_a_key_without_an_agent_is_whole if {
	data.gateway.decision.action == "ALLOW" with input as object.union(whole, {"agent": null})
}

test_hidden_arguments_deny if {
	data.gateway.decision.action == "DENY" with input as object.union(whole, {"arguments": null})
}

test_an_unknown_tool_asks if {
	unknown := json.patch(whole, [{"op": "replace", "path": "/tool/pin", "value": "UNKNOWN"}])
	decision := data.gateway.decision with input as with_rules(unknown, [rule("1", "ALLOW", pattern)])
	decision.action == "REQUIRE_APPROVAL"
	decision.policy_ids == ["gateway.unknown_tool"]
	data.gateway.decision.action == "DENY" with input as with_default(unknown, "DENY")
}

test_no_finding_at_all_denies if {
	data.gateway.compared.action == "DENY" with input as whole with data.gateway._counted as set()
}

test_several_findings_of_one_action_decide_together if {
	every action in ["ALLOW", "LOG_ONLY"] {
		rules := [rule("1", action, pattern), rule("2", action, pattern)]
		decision := data.gateway.decision with input as with_rules(whole, rules)
		decision.action == action
		decision.policy_ids == ["rule:1", "rule:2"]
	}
}

# One rule: what both have in common is worked out once.
both_ways := [data.gateway.decision, data.gateway.compared]

test_the_short_way_says_what_the_long_way_says if {
	speaking := {"all": {"p": {"findings": {finding("LOG_ONLY")}}}}
	asked := [[{}, null], [{}, object.union(whole.agent, {"asserted": true})], [speaking, whole.agent]]
	tools := [[null, "ACCEPTED"], [null, "UNKNOWN"], ["salesforce", "UNPINNED"]]
	why := {"reason": "why"}
	rule_lists := [
		[], [rule("1", "ALLOW", object.union(tool, why))], [rule("1", "DENY", why)], [rule("1", "ALLOW", object.union(agent, why))],
		[rule("1", "LOG_ONLY", object.union(agent, why))], [rule("1", "ALLOW", tool)], [rule("1", "allow", object.union(tool, why))], ["ALLOW"],
	]
	count([1 |
		some [policies, asking] in asked
		some [template, pin] in tools
		some rules in rule_lists
		document := object.union(with_rules(whole, rules), {
			"agent": asking,
			"server": object.union(whole.server, {"template": template}),
			"tool": object.union(whole.tool, {"pin": pin}),
		})
		[decided, compared] := both_ways with input as document with data.policies as policies
		decided == compared
	]) == (3 * 3) * 8
}

test_an_organisation_that_speaks_alone_says_what_the_long_way_says if {
	found := [
		finding("ALLOW"), finding("DENY"), finding("LOG_ONLY"), object.union(finding("DENY"), {"policy_id": "another", "reason": ""}),
		object.union(finding("REQUIRE_APPROVAL"), {"obligations": [{"type": "quorum", "count": 2}]}),
		object.union(finding("REQUIRE_APPROVAL"), {"reason": 5}), object.remove(finding("DENY"), ["reason"]),
		object.union(finding("ALLOW"), {"obligations": false}), finding("allow"), "DENY",
	]
	plain := [json.patch(whole, [{"op": "replace", "path": "/project/default_action", "value": default_action}]) |
		some default_action in ["ALLOW", "LOG_ONLY", "REQUIRE_APPROVAL", "DENY", "allow"]
	]
	unknown := json.patch(whole, [{"op": "replace", "path": "/tool/pin", "value": "UNKNOWN"}])
	asserted := json.patch(whole, [{"op": "replace", "path": "/agent/asserted", "value": true}])
	others := [unknown, asserted, with_rules(whole, [rule("1", "LOG_ONLY", {})]), templated, json.remove(whole, ["/call/era"])]
	documents := array.concat(plain, others)
	count([1 |
		some place, one in found
		other := found[(place * 3) % 10]
		some turn in [0, 3, 5]
		document := documents[(place + turn) % 10]
		[decided, compared] := both_ways with input as document
			with data.policies as {"all": {"p": {"findings": {one}}, "q": {"findings": {other}}}}
		decided == compared
	]) == 10 * 3
	some_findings := {finding("LOG_ONLY"), finding("DENY"), object.union(finding("DENY"), {"policy_id": "a"}), object.union(finding("DENY"), {"policy_id": "b", "reason": ""})}
	decision := data.gateway.decision with input as whole
		with data.policies as {"all": {"p": {"findings": some_findings}}}
	decision == {"action": "DENY", "policy_ids": ["a", "b", "deny"], "reasons": ["because"], "obligations": []}
}

test_a_template_that_speaks_alone_says_what_the_long_way_says if {
	found := [
		finding("ALLOW"), finding("DENY"), finding("LOG_ONLY"), object.union(finding("DENY"), {"policy_id": "another", "reason": ""}),
		object.union(finding("REQUIRE_APPROVAL"), {"obligations": [{"type": "quorum", "count": 2}]}),
		object.union(finding("REQUIRE_APPROVAL"), {"reason": 5}), object.remove(finding("DENY"), ["reason"]),
		object.union(finding("ALLOW"), {"obligations": false}), finding("allow"), "DENY",
	]
	mild := with_overrides(templated, [override("LOG_ONLY", {})])
	unknown := json.patch(templated, [{"op": "replace", "path": "/tool/pin", "value": "UNKNOWN"}])
	ruled := with_rules(templated, [rule("1", "LOG_ONLY", {})])
	unroutable := json.remove(templated, ["/project/slug"])
	count([1 |
		some place, one in found
		other := found[(place * 3) % 10]
		some document in [templated, mild, unknown, ruled, unroutable]
		[decided, compared] := both_ways with input as document
			with data.connectors as {"salesforce": {"p": {"findings": {one}}, "q": {"findings": {other}}}}
		decided == compared
	]) == 10 * 5
	some_findings := {finding("ALLOW"), finding("DENY"), object.union(finding("DENY"), {"policy_id": "a"}), object.union(finding("DENY"), {"policy_id": "b", "reason": ""})}
	decision := data.gateway.decision with input as templated
		with data.connectors as {"salesforce": {"p": {"findings": some_findings}}}
	decision == {"action": "DENY", "policy_ids": ["a", "b", "deny"], "reasons": ["because"], "obligations": []}
}
