package connectors_test.servicenow.delete_block

import rego.v2

import data.connectors_test.servicenow.calls

path := "/api/now/table/incident/abc"

test_a_method_may_delete_too if {
	every method in ["DELETE", "delete", " Delete "] {
		calls.finds("sn-delete-block", "rest_api", {"method": method, "path": path})
		calls.finds("sn-delete-block", "table_api", {"options": {"httpMethod": method}, "path": path})
		calls.finds("sn-delete-block", "update_record", {"method": method, "table": "incident"})
	}
	calls.finds("sn-delete-block", "manage_incident", {"operation": "deleteMultiple"})
	calls.finds("sn-delete-block", "rest_api", {"method": "POST", "path": path, "headers": {"X-HTTP-Method-Override": "DELETE"}})
}

test_a_method_that_cannot_be_read_is_denied if {
	every arguments in [{}, {"method": 5}, {"method": "BREW"}, {"method": ["GET"]}, {"method": "GET", "verb": "POST"}] {
		calls.finds("sn-delete-block", "rest_api", object.union({"path": path}, arguments))
	}
}

test_a_reading_request_passes if {
	every method in ["GET", "head"] {
		calls.found("rest_api", {"method": method, "path": path}) == {"sn-read"}
	}
}

test_reading_about_deletions_passes if calls.found("list_audit", {"operation": "delete"}) == {"sn-read"}
