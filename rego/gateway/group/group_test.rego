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
