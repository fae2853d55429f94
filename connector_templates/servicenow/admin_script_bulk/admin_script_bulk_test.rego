package connectors_test.servicenow.admin_script_bulk

import rego.v2

import data.connectors_test.servicenow.calls

test_a_script_in_a_query_is_denied if {
	every text in ["user=javascript:gs.getUserID()", "JavaScript : x", "a^b=JAVASCRIPT:x"] {
		every key in ["query", "sysparm_query", "filter", "encoded_query"] {
			calls.finds("sn-admin-script-bulk", "list_incidents", {key: text})
			calls.finds("sn-admin-script-bulk", "list_incidents", {"a": [{key: text}]})
		}
	}
}

test_a_script_in_a_text_passes if {
	calls.found("add_comment", {"comment": "the error says javascript: undefined"}) == {"sn-incident-write"}
	calls.found("list_incidents", {"query": "active=true", "limit": 5}) == {"sn-read"}
}
