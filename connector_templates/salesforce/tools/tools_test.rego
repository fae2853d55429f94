package connectors_test.salesforce.tools

import rego.v2

import data.connectors.salesforce.record_create
import data.connectors.salesforce.record_delete
import data.connectors.salesforce.record_update
import data.connectors.salesforce.tools
import data.connectors_test.salesforce.calls

actions(findings) := {found.action | some found in findings}

test_creating_is_recorded if {
	every name in ["createSobjectRecord", "create_record", "CRM__Create_Record", "acme_create_record"] {
		actions(record_create.findings) == {"LOG_ONLY"} with input as calls.call(name, {})
	}
}

test_changing_is_recorded if {
	every name in ["updateSobjectRecord", "updateRelatedRecord", "updateRelatedSobjectRecord", "update_record", "x_update_record"] {
		actions(record_update.findings) == {"LOG_ONLY"} with input as calls.call(name, {})
	}
}

test_deleting_asks_whatever_it_is_called if {
	every name in [
		"deleteSobjectRecord", "deleteRelatedRecord", "deleteRelatedSobjectRecord", "delete_record", "DELETE-RECORD",
		"x__purge_accounts", "merge_accounts", "removeContact",
	] {
		actions(record_delete.findings) == {"REQUIRE_APPROVAL"} with input as calls.call(name, {})
	}
	record_delete.findings == set() with input as calls.call("list_deleted_records", {})
}

test_an_operation_says_what_a_dml_tool_does if {
	every operation in ["insert", "INSERT", " Insert "] {
		actions(record_create.findings) == {"LOG_ONLY"} with input as calls.call("salesforce_dml_records", {"operation": operation})
	}
	every operation in ["update", "UPSERT"] {
		actions(record_update.findings) == {"LOG_ONLY"} with input as calls.call("salesforce_dml_records", {"operation": operation})
	}
	every operation in ["delete", "hardDelete", "hard_delete", "DELETE"] {
		actions(record_delete.findings) == {"REQUIRE_APPROVAL"} with input as calls.call("salesforce_dml_records", {"operation": operation})
	}
}

test_an_operation_that_cannot_be_read_is_none if {
	every arguments in [{}, {"operation": 5}, {"operation": null}, {"operation": "frobnicate"}, {"operation": "insert", "x": {"Operation": "delete"}}] {
		tools.unreadable_operation with input as calls.call("salesforce_dml_records", arguments)
	}
	not tools.unreadable_operation with input as calls.call("create_record", {})
	every operation in ["insert", "update", "delete"] {
		not tools.unreadable_operation with input as calls.call("salesforce_dml_records", {"operation": operation})
	}
}
