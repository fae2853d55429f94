package policies_test.argument_size

import rego.v2

import data.policies.all.argument_size

call := {"arguments": {"a": 1, "b": 2}}

test_it_finds_nothing_until_it_is_configured if {
	argument_size.findings == set() with input as call
}

test_it_finds_nothing_within_the_limit if {
	argument_size.findings == set() with input as call with data.policies.all.argument_size.settings.limit as 2
}

test_it_asks_beyond_the_limit if {
	argument_size.findings == {{
		"action": "REQUIRE_APPROVAL",
		"policy_id": "argument_size",
		"reason": "2 arguments, more than 1",
	}} with input as call with data.policies.all.argument_size.settings.limit as 1
}

test_it_denies_when_its_limit_cannot_be_read if {
	some found in argument_size.findings with input as call with data.policies.all.argument_size.settings.limit as "1"
	found.action == "DENY"
}
