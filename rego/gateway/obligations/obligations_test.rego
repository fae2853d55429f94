package gateway.obligations_test

import rego.v2

import data.gateway.decision_test.whole

decision(obligations) := answer if {
	answer := data.gateway.decision with input as whole
		with data.policies as {"all": {"p": {"findings": {finding |
			some place, listed in obligations
			finding := {"action": "REQUIRE_APPROVAL", "policy_id": sprintf("p%d", [place]), "reason": "r", "obligations": listed}
		}}}}
}

test_the_highest_quorum_counts if {
	decision([[{"type": "quorum", "count": 2}], [{"type": "quorum", "count": 3}]]).obligations == [{"type": "quorum", "count": 3}]
}

test_a_reason_is_wanted_once_any_wants_it if {
	decision([[{"type": "reason"}], [{"type": "quorum", "count": 2}]]).obligations == [{"type": "quorum", "count": 2}, {"type": "reason"}]
}

test_approvers_are_those_that_all_name if {
	both := decision([[{"type": "approvers", "names": ["a", "b"]}], [{"type": "approvers", "names": ["c", "b"]}]])
	both.obligations == [{"type": "approvers", "names": ["b"]}]
	both.action == "REQUIRE_APPROVAL"
}

test_no_common_approver_denies if {
	none := decision([[{"type": "approvers", "names": ["a"]}], [{"type": "approvers", "names": ["b"]}]])
	none.action == "DENY"
	none.policy_ids == ["gateway.no_common_approver"]
}

test_the_highest_cost_counts if {
	decision([[{"type": "cost", "amount": 0.5}, {"type": "cost", "amount": 2}]]).obligations == [{"type": "cost", "amount": 2}]
}

test_redactions_unite if {
	decision([[{"type": "redact", "fields": ["b"]}], [{"type": "redact", "fields": ["a", "b"]}]]).obligations == [{"type": "redact", "fields": ["a", "b"]}]
}

test_a_block_wins_over_redaction if {
	decision([[{"type": "redact", "fields": ["b"]}], [{"type": "block"}]]).obligations == [{"type": "block"}]
}

test_arguments_that_hold_a_cost_all_count if {
	decision([
		[{"type": "cost", "amount": 2}, {"type": "cost", "argument": "total"}],
		[{"type": "cost", "argument": "fee"}],
	]).obligations == [{"type": "cost", "amount": 2, "arguments": ["fee", "total"]}]
	decision([[{"type": "cost", "argument": "fee"}]]).obligations == [{"type": "cost", "amount": 0, "arguments": ["fee"]}]
}

test_obligations_of_findings_that_did_not_decide_count if {
	found := data.gateway.decision with input as whole with data.policies as {"all": {"p": {"findings": {
		{"action": "DENY", "policy_id": "a", "reason": "r"},
		{"action": "ALLOW", "policy_id": "b", "reason": "r", "obligations": [{"type": "block"}]},
	}}}}
	found.obligations == [{"type": "block"}]
	found.policy_ids == ["a"]
}

test_a_template_may_oblige if {
	document := json.patch(whole, [{"op": "replace", "path": "/server/template", "value": "salesforce"}])
	found := data.gateway.decision with input as document with data.connectors as {"salesforce": {"p": {"findings": {
		{"action": "REQUIRE_APPROVAL", "policy_id": "a", "reason": "r", "obligations": {{"type": "quorum", "count": 2}}},
	}}}}
	found.obligations == [{"type": "quorum", "count": 2}]
}

test_what_is_not_understood_denies if {
	every broken in [
		[{"type": "notify"}], [{}], ["quorum"], "quorum", {"type": "block"}, null,
		[{"type": "quorum"}], [{"type": "quorum", "count": 0}], [{"type": "quorum", "count": 1.5}], [{"type": "quorum", "count": "2"}],
		[{"type": "cost", "amount": -1}], [{"type": "cost", "amount": "1"}],
		[{"type": "approvers", "names": []}], [{"type": "approvers", "names": "a"}], [{"type": "approvers", "names": [1]}],
		[{"type": "redact"}], [{"type": "redact", "fields": [null]}],
	] {
		denied := decision([broken])
		denied.action == "DENY"
		denied.policy_ids == ["gateway.obligation_unknown"]
	}
}
