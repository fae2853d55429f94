package lib.values_test

import rego.v2

import data.lib.values

test_a_getter_answers_what_is_there if {
	values.string({"a": {"b": "x"}}, ["a", "b"], "y") == "x"
	values.number({"a": 1.5}, ["a"], 2) == 1.5
	values.integer({"a": 3}, ["a"], 2, 1, 5) == 3
	values.boolean({"a": true}, ["a"], false) == "yes"
	values.boolean({"a": false}, ["a"], true) == "no"
	values.strings({"a": ["x", "y"]}, ["a"], []) == {"x", "y"}
}

test_a_getter_falls_back_only_where_nothing_is_said if {
	every document in [{}, {"a": null}] {
		values.string(document, ["a"], "y") == "y"
		values.number(document, ["a"], 2) == 2
		values.integer(document, ["a"], 2, 1, 5) == 2
		values.boolean(document, ["a"], false) == "no"
		values.strings(document, ["a"], ["z"]) == {"z"}
	}
}

test_a_getter_is_undefined_for_another_type if {
	every other in ["5", true, [1], {"b": 1}] {
		not values.number({"a": other}, ["a"], 2)
		not values.integer({"a": other}, ["a"], 2, 1, 5)
		not values.strings({"a": other}, ["a"], [])
	}
	every other in [5, true, ["x"], {"b": 1}] {
		not values.string({"a": other}, ["a"], "y")
	}
	every other in ["true", 1, [], {}] {
		not values.boolean({"a": other}, ["a"], true)
	}
	not values.strings({"a": ["x", 5]}, ["a"], [])
	not values.string(data.no.such.document, ["a"], "y")
}

test_an_integer_is_whole_and_within_its_bounds if {
	every other in [0, 6, 2.5, 1e9, -1] {
		not values.integer({"a": other}, ["a"], 2, 1, 5)
	}
}

test_keys_are_folded if {
	every text in ["sobject-name", "sObject_Name", " SOBJECTNAME ", "s.object name"] {
		values.fold(text) == "sobjectname"
	}
	not values.fold(5)
	not values.fold(null)
}

test_values_are_found_by_name_at_any_depth_and_in_json_strings if {
	document := {
		"sObject": "A",
		"records": [{"attributes": {"TYPE": "B"}}, {"body": `{"type": "C", "more": "[{\"Type\": \"D\"}]"}`}],
		"note": "{type: X",
		"other": "type",
	}
	values.named(document, {"sobject", "type"}) == {"A", "B", "C", "D"}
	values.named({"type": {"a": 1}}, {"type"}) == {{"a": 1}}
	values.named({"a": 1}, {"type"}) == set()
	values.named("type", {"type"}) == set()
}

test_the_key_of_a_list_s_member_is_the_list_s if {
	values.key(["to", 0]) == "to"
	values.key(["to", 0, "Email-Address"]) == "emailaddress"
	values.key([]) == ""
	values.key([0]) == ""
}
