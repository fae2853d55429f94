package connectors_test.copilot.samples

import rego.v2

# The files beside this one; each holds one sample under its own name.
samples := data.copilot.samples

document(sample) := {
	"version": 1,
	"project": {"id": "prj_1", "slug": "crm", "default_action": "ALLOW"},
	"agent": {"id": "agt_1", "name": "clerk", "asserted": false},
	"server": {
		"id": "srv_1",
		"slug": "copilot",
		"origin": "",
		"template": "copilot",
		"params": sample.params,
		"overrides": [],
	},
	"tool": {
		"name": sample.tool,
		"risk": "LOW",
		"risk_computed": "LOW",
		"pin": "ACCEPTED",
		"annotations": {},
		"definition_sha256": "ab",
	},
	"rules": [],
	"arguments": sample.arguments,
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

test_there_are_samples if count(samples) > 9

test_every_sample_is_decided_as_it_says if {
	every sample in samples {
		decided := data.gateway.decision with input as document(sample)
		decided.action == sample.action
		decided.policy_ids == sort(sample.policy_ids)
	}
}
