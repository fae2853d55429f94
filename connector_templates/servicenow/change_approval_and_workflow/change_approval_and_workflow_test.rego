package connectors_test.servicenow.change_approval_and_workflow

import rego.v2

import data.connectors_test.servicenow.calls

asks(name, arguments) if calls.finds("sn-change-approval-and-workflow", name, arguments)

test_a_change_may_be_approved_by_its_fields if {
	every fields in [{"approval": "approved"}, {"Approval": "Approved"}, {"state": "implement"}, {"state": -1}, {"state": "-2"}, {"approval_state": "x"}, {"approval": 5}] {
		asks("update_change_request", fields)
		asks("update_change_request", {"fields": fields})
		asks("update_change_request", {"fields": json.marshal(fields)})
		asks("update_record", object.union({"table": "change_request"}, fields))
	}
}

test_a_draft_does_not_ask if {
	every fields in [{}, {"state": "new"}, {"state": -5}, {"state": "Assess"}, {"approval": "requested"}, {"approval": null}, {"short_description": "approved"}] {
		calls.found("update_change_request", fields) == {"sn-change-request"}
	}
	calls.found("update_incident", {"state": "resolved"}) == {"sn-incident-write"}
}
