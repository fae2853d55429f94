package connectors_test.servicenow.delete_block

import rego.v2

import data.connectors_test.servicenow.calls

path := "/api/now/table/incident/abc"

test_a_method_may_delete_too if {
	every method in ["DELETE", "delete", " Delete "] {
		"sn-delete-block" in calls.found("rest_api", {"method": method, "path": path})
		"sn-delete-block" in calls.found("table_api", {"options": {"httpMethod": method}, "path": path})
		"sn-delete-block" in calls.found("update_record", {"method": method, "table": "incident"})
	}
	"sn-delete-block" in calls.found("manage_incident", {"operation": "deleteMultiple"})
	"sn-delete-block" in calls.found("rest_api", {"method": "POST", "path": path, "headers": {"X-HTTP-Method-Override": "DELETE"}})
}

test_a_method_that_cannot_be_read_is_denied if {
	every arguments in [{}, {"method": 5}, {"method": "BREW"}, {"method": ["GET"]}, {"method": "GET", "verb": "POST"}] {
		"sn-delete-block" in calls.found("rest_api", object.union({"path": path}, arguments))
	}
}

test_a_reading_request_passes if {
	every method in ["GET", "head"] {
		calls.found("rest_api", {"method": method, "path": path}) == {"sn-read"}
	}
}

test_reading_about_deletions_passes if calls.found("list_audit", {"operation": "delete"}) == {"sn-read"}
