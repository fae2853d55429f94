package gateway.methods_test

import rego.v2

message := {
	"version": 1,
	"project": {"id": "prj_1", "slug": "crm", "default_action": "ALLOW"},
	"agent": null,
	"server": {"id": "srv_1", "slug": "sales"},
	"target": {"method": "resources/read", "from": "client", "params": {"uri": "file:///a"}},
	"call": {"source": "mcp", "method": "resources/read", "phase": "method", "era": "modern", "session": null},
	"context": {"time": "2026-11-22T10:00:00Z", "client_ip": "127.0.0.1"},
}

finding(action) := {"action": action, "policy_id": lower(action), "reason": "because"}

decided(findings) := decision if {
	decision := data.gateway.method with input as message
		with data.policies.method as {"resources/read": {"p": {"findings": findings}}}
}

test_without_a_policy_it_is_allowed if {
	decision := data.gateway.method with input as message
	decision == {"action": "ALLOW", "policy_ids": [], "reasons": [], "obligations": []}
}

test_the_strictest_finding_decides if {
	decided({finding("ALLOW")}).action == "ALLOW"
	decided({finding("ALLOW"), finding("LOG_ONLY")}).action == "LOG_ONLY"
	decided({finding("LOG_ONLY"), finding("DENY")}) == {
		"action": "DENY",
		"policy_ids": ["deny"],
		"reasons": ["because"],
		"obligations": [],
	}
}

test_what_asks_for_approval_is_denied if {
	decision := decided({finding("REQUIRE_APPROVAL")})
	decision.action == "DENY"
	decision.policy_ids == ["require_approval"]
}

test_findings_that_cannot_be_understood_deny if {
	every findings in [{"x"}, "no set", {{"action": "MAYBE", "policy_id": "p"}}] {
		decided(findings).action == "DENY"
	}
}

test_another_methods_policy_has_no_say if {
	decision := data.gateway.method with input as message
		with data.policies.method as {"prompts/get": {"p": {"findings": {finding("DENY")}}}}
	decision.action == "ALLOW"
}

test_an_input_that_is_not_whole_is_denied if {
	every path in [["target"], ["target", "method"], ["project", "slug"], ["server"], ["context"]] {
		cut := json.remove(message, [concat("/", path)])
		decision := data.gateway.method with input as cut
		decision.action == "DENY"
	}
	every document in [null, {}, [], "x"] {
		decision := data.gateway.method with input as document
		decision.action == "DENY"
	}
}
