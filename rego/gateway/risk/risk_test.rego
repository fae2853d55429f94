package gateway.risk_test

import rego.v2

risk(tool) := answer if {
	answer := data.gateway.risk with input as {"tool": tool}
}

level(name, description) := risk({"name": name, "description": description}).level

test_the_documented_words_in_a_name if {
	every word in ["exec", "shell", "command", "eval"] {
		level(sprintf("%s_it", [word]), "") == "CRITICAL"
	}
	every word in ["write", "delete", "remove", "drop", "modify", "update", "insert"] {
		level(sprintf("%s_it", [word]), "") == "HIGH"
	}
	every word in ["read", "get", "list", "search", "query", "read-only"] {
		level(sprintf("%s_it", [word]), "") == "LOW"
	}
	level("frobnicate", "") == "MEDIUM"
}

test_the_documented_words_in_a_description if {
	every phrase in ["Opens a shell.", "Takes a command", "May execute arbitrary code", "Executes arbitrary Python"] {
		level("frobnicate", phrase) == "CRITICAL"
	}
	every phrase in ["Deletes the thing", "writes a file", "Drop it"] {
		level("frobnicate", phrase) == "HIGH"
	}
	every phrase in ["Search the web", "A read-only view", "Lists things"] {
		level("frobnicate", phrase) == "LOW"
	}
}

test_words_are_whole if {
	level("soqlQuery", "Executes a SOQL query") == "LOW"
	level("find", "Executes a SOSL search") == "LOW"
	level("run_apex_test", "Run Apex tests in your org and see the execution") == "MEDIUM"
	level("mcp_graph_teams_replyToChannelMessage", "Reply to a message in a thread") == "HIGH"
	level("score_issues", "readiness of issues") == "MEDIUM"
}

test_every_way_to_write_a_name if {
	every name in ["sendMail", "SendMail", "send_mail", "send-mail", "send mail", "send2mail", "SENDMail", "x.send.mail"] {
		level(name, "") == "HIGH"
	}
}

test_the_strictest_word_counts if {
	level("get_and_delete", "") == "HIGH"
	level("read_file", "then deletes it") == "HIGH"
	level("exec_query", "") == "CRITICAL"
}

test_a_noun_after_a_reading_word_raises_nothing if {
	level("list_commits", "") == "LOW"
	level("get_permission_set", "") == "LOW"
	level("commit_list", "") == "HIGH"
}

test_a_sensitive_object_raises if {
	level("add_comment", "") == "MEDIUM"
	level("add_group_members", "") == "HIGH"
}

test_prose_is_asked_further_only_when_the_name_says_nothing if {
	level("mailer", "Sends a message") == "HIGH"
	level("get_mail", "Gets what others send") == "LOW"
}

test_the_title_counts_like_the_name if {
	risk({"name": "x1", "title": "Delete a record"}).level == "HIGH"
	risk({"name": "x1", "title": null, "description": null}).level == "MEDIUM"
}

test_arguments_may_raise if {
	every property, expected in {"command": "CRITICAL", "shell_command": "CRITICAL", "sql": "HIGH", "code": "HIGH", "script": "HIGH", "country_code": "LOW"} {
		tool := {"name": "get_x", "inputSchema": {"type": "object", "properties": {property: {"type": "string"}}}}
		risk(tool).level == expected
	}
}

test_annotations_only_raise if {
	risk({"name": "get_x", "annotations": {"destructiveHint": true}}).level == "HIGH"
	risk({"name": "get_x", "annotations": {"readOnlyHint": false}}).level == "MEDIUM"
	risk({"name": "delete_x", "annotations": {"readOnlyHint": true, "destructiveHint": false}}).level == "HIGH"
	risk({"name": "x", "annotations": {"readOnlyHint": true}}).level == "MEDIUM"
}

test_the_reasons_say_which_word_and_where if {
	risk({"name": "get_x", "description": "deletes it", "annotations": {"destructiveHint": true}}) == {
		"level": "HIGH",
		"reasons": [
			{"level": "HIGH", "where": "annotations", "word": "destructiveHint"},
			{"level": "HIGH", "where": "description", "word": "deletes"},
			{"level": "LOW", "where": "name", "word": "get"},
		],
	}
	risk({"name": "frobnicate"}) == {"level": "MEDIUM", "reasons": []}
}

test_what_cannot_be_read_is_critical if {
	every tool in [null, {}, "x", {"name": 1}, ["get"]] {
		risk(tool).level == "CRITICAL"
	}
	data.gateway.risk.level == "CRITICAL" with input as {}
	data.gateway.risk.level == "CRITICAL" with input as null
}

test_many_at_once_in_their_order if {
	risks := data.gateway.risks with input as {"tools": [{"name": "get_x"}, {"name": "exec"}, null, {"name": "get_x"}]}
	[found.level | some found in risks] == ["LOW", "CRITICAL", "CRITICAL", "LOW"]
}
