package gateway.group_test

import rego.v2

import data.gateway.decision_test

test_each_question_is_decided_as_if_it_were_asked_alone if {
	denied := decision_test.with_rules(decision_test.whole, [decision_test.rule("1", "DENY", {})])
	inputs := {"0": decision_test.whole, "1": denied, "2": {}}
	calls := [{"id": id, "input": document} | some id, document in inputs]
	decisions := data.gateway.group.decisions with input as {"calls": calls}
	object.keys(decisions) == object.keys(inputs)
	every id, document in inputs {
		alone := data.gateway.decision with input as document
		decisions[id] == alone
	}
	decisions["1"].action == "DENY"
	decisions["2"].action == "DENY"
}

test_no_questions_have_no_answers if {
	data.gateway.group.decisions == {} with input as {"calls": []}
}

test_questions_may_share_members if {
	denied := decision_test.with_rules(decision_test.whole, [decision_test.rule("1", "DENY", {})])
	inputs := {"0": decision_test.whole, "1": denied, "2": decision_test.whole}
	shared := object.remove(decision_test.whole, ["rules", "arguments"])
	calls := [{"id": id, "shared": 0, "own": object.filter(document, ["rules", "arguments"])} |
		some id, document in inputs
	]
	one := {"id": "3", "input": denied}
	given := {"shared": [shared], "calls": array.concat(calls, [one])}
	decisions := data.gateway.group.decisions with input as given
	decisions["3"].action == "DENY"
	object.remove(decisions, ["3"]) == {id: alone |
		some id, document in inputs
		alone := data.gateway.decision with input as document
	}
}

test_what_names_no_shared_members_is_not_answered if {
	calls := [{"id": "0", "shared": 1, "own": {}}]
	data.gateway.group.decisions == {} with input as {"shared": [{}], "calls": calls}
}
