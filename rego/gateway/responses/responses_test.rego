package gateway.responses_test

import rego.v2

message := {
	"version": 1,
	"project": {"id": "prj_1", "slug": "acme"},
	"agent": {"id": "agt_1", "name": "clerk", "asserted": false},
	"server": {"id": "srv_1", "slug": "crm", "template": null},
	"tool": {"name": "query_records", "risk": "LOW"},
	"kind": "result",
	"method": "tools/call",
	"body": {
		"content": [{"type": "text", "text": "call +49 170 1234567 now"}],
		"structuredContent": {"ssn": 123456789, "name": "Ada"},
	},
	"context": {"time": "2026-01-31T12:00:00.000000Z"},
}

finding(obligation) := {"policy_id": "p", "reason": "because", "obligations": [obligation]}

policies(findings) := {"all": {"p": {"findings": findings}}}

answer(findings) := result if {
	result := data.gateway.response with input as message
		with data.policies.response as policies(findings)
}

quiet := {"block": false, "pointers": [], "replacements": [], "labels": [], "policy_ids": [], "reasons": []}

test_without_a_finding_nothing_is_asked if {
	answer(set()) == quiet
}

test_what_is_no_message_is_withheld if {
	data.gateway.response.block with input as {}
	data.gateway.response.block with input as null
	every name in ["project", "server", "kind", "body", "tool"] {
		data.gateway.response.block with input as object.remove(message, [name])
	}
	data.gateway.response.block with input as object.union(message, {"kind": "rumour"})
}

test_patterns_blacken_text_and_numbers if {
	found := answer({finding({"type": "redact", "patterns": [`\+\d[\d ]{7,}\d`, `^\d{9}$`]})})
	found.block == false
	{replaced | some replaced in found.replacements} == {
		{"path": ["content", 0, "text"], "text": "call [redacted] now"},
		{"path": ["structuredContent", "ssn"], "text": "[redacted]"},
	}
	found.policy_ids == ["p"]
	found.reasons == ["because"]
}

test_a_name_that_matches_withholds_the_message if {
	answer({finding({"type": "redact", "patterns": ["^ssn$"]})}).block
}

test_pointers_and_labels_are_told if {
	found := answer({
		finding({"type": "redact", "pointers": ["/structuredContent/ssn"]}),
		{"policy_id": "q", "reason": "r", "obligations": {{"type": "label", "label": "pii"}}},
	})
	found.pointers == ["/structuredContent/ssn"]
	found.labels == ["pii"]
	found.policy_ids == ["p", "q"]
	not found.block
}

test_a_block_needs_no_replacements if {
	found := answer({
		finding({"type": "block"}),
		finding({"type": "redact", "patterns": ["Ada"]}),
	})
	found.block
	found.replacements == []
}

test_what_cannot_be_understood_withholds if {
	every wrong in [
		finding({"type": "shout"}),
		finding({"type": "label"}),
		finding({"type": "redact"}),
		finding({"type": "redact", "patterns": ["("]}),
		finding({"type": "redact", "patterns": [1]}),
		finding({"type": "redact", "patterns": "a"}),
		finding({"type": "redact", "pointers": ["ssn"]}),
		finding({"type": "redact", "pointers": ["/ssn"], "pattern": "a"}),
		{"policy_id": "p", "obligations": []},
		{"policy_id": "p", "obligations": "block"},
		{"obligations": [{"type": "block"}]},
		null,
	] {
		answer({wrong}).block
	}
	answer("block").block
	answer(["block"]).policy_ids == ["gateway.malformed_finding"]
}

test_each_route_sees_its_own if {
	block := {"p": {"findings": {finding({"type": "block"})}}}
	every kind, name in {"project": "acme", "server": "crm", "agent": "clerk", "tool": "query_records"} {
		data.gateway.response.block with input as message
			with data.policies.response as {kind: {name: block}}
		not data.gateway.response.block with input as message
			with data.policies.response as {kind: {"other": block}}
	}
}

test_without_a_tool_the_policies_of_all_tools_see_it if {
	block := {"p": {"findings": {finding({"type": "block"})}}}
	data.gateway.response.block with input as object.union(message, {"tool": null})
		with data.policies.response as {"tool": {"any": block}}
}
