package connectors_test.salesforce.admin_and_code

import rego.v2

import data.connectors.salesforce.admin_and_code
import data.connectors_test.salesforce.calls

denied(name, arguments) if {
	some found in admin_and_code.findings with input as calls.call(name, arguments)
	found.action == "DENY"
}

passes(name, arguments) if admin_and_code.findings == set() with input as calls.call(name, arguments)

test_tools_that_administer_or_run_code_are_denied if {
	every name in [
		"assign_permission_set", "deploy_metadata", "delete_org", "create_scratch_org", "create_org_snapshot", "open_org",
		"tooling_execute", "apex_execute", "execute_anonymous_apex", "salesforce_execute_anonymous", "restful", "SF__RESTFUL",
		"salesforce_manage_object", "promote_devops_center_work_item", "resume_tool_operation", "create_user", "call_operation",
		"invoke", "execute", "run_operation", "salesforce_rest_api", "graphql_query",
	] {
		denied(name, {"path": "/services/data/v60.0/sobjects/Account", "method": "GET"})
		denied(name, {})
	}
}

test_reading_tools_are_not if {
	every name in ["soqlQuery", "run_soql_query", "run_apex_test", "describe", "discover", "getUserInfo", "retrieve_metadata"] {
		passes(name, {"sobject-name": "User"})
	}
}

test_ordinary_objects_may_be_written if {
	passes("createSobjectRecord", {"sobject-name": "Account", "body": {"Name": "User", "Type": "Customer"}})
	passes("createSobjectRecord", {"sobject-name": "User__c", "body": {}})
	passes("updateSobjectRecord", {"sobject-name": "acme__Profile__c", "id": "a01", "body": {}})
	passes("updateRelatedRecord", {"sobject-name": "Account", "id": "001", "relationship-path": "Contacts", "body": {}})
}

written_by := [
	["createSobjectRecord", {"body": {}}], ["updateSobjectRecord", {"id": "005", "body": {}}], ["deleteSobjectRecord", {"id": "005"}],
	["salesforce_dml_records", {"operation": "insert"}],
]

spellings := [
	"User", "user", "USER", " User ", "Users", "Profile", "PermissionSet", "PermissionSetAssignment", "permissionsetassignment",
	"Permission_Set_Assignment", "acme__User", "PermissionSetGroup", "ApexClass", "ApexTrigger", "NamedCredential",
	"ConnectedApplication", "acme__PermissionSet",
]

object_keys := ["sobject-name", "sobject_name", "sObject", "objectName", "object", "SOBJECTNAME", "entity"]

# Each spelling by one tool, and each key by all of them: all together would take a reload's whole time, and are asked
# by the gateway's own tests.
test_protected_objects_are_denied_however_spelled if {
	every place, spelling in spellings {
		[name, arguments] := written_by[place % 4]
		denied(name, object.union(arguments, {"sobject-name": spelling}))
	}
	every key in object_keys {
		every write in written_by {
			denied(write[0], object.union(write[1], {key: "Permission_Set_Assignment"}))
		}
	}
}

test_protected_objects_are_denied_wherever_they_stand if {
	every arguments in [
		{"sobject-name": "Account", "body": {"attributes": {"type": "User"}}},
		{"sobject-name": "Account", "body": {"records": [{"attributes": {"Type": "permissionsetassignment"}}]}},
		{"sobject-name": "Account", "body": `{"attributes": {"type": "User"}}`},
		{"sobject-name": "Account", "body": `{"x": "[{\"attributes\": {\"type\": \"User\"}}]"}`},
		{"sobject-name": "Account", "body": {"PermissionSetAssignment": [{"AssigneeId": "005"}]}},
		{"sobject-name": "Account", "body": {"url": "/services/data/v60.0/sobjects/User/"}},
		{"sobject-name": "Account", "url": "/services/data/v60.0//sobjects/%55ser"},
		{"sobject-name": "Account", "url": "/services/data/%2555ser"},
		{"sobject-name": "Account", "objectName": "User"},
	] {
		denied("createSobjectRecord", arguments)
	}
}

test_a_relationship_that_leads_to_a_user_is_denied if {
	every path in ["Owner", "owner", "Parent.Owner", "CreatedBy", "Contacts/Owner", "PermissionSetAssignments", "Manager", "Users"] {
		denied("updateRelatedSobjectRecord", {"sobject-name": "Account", "id": "001", "relationship-path": path, "body": {}})
		denied("deleteRelatedRecord", {"sobject-name": "Account", "id": "001", "relationship-path": path})
	}
	denied("updateRelatedRecord", {"sobject-name": "Account", "id": "001", "body": {}})
	denied("updateRelatedRecord", {"sobject-name": "Account", "id": "001", "relationship-path": ["Contacts"]})
}

test_what_cannot_be_read_is_denied if {
	every arguments in [
		{}, {"body": {}}, {"sobject-name": 5}, {"sobject-name": null}, {"sobject-name": ["Account"]}, {"sobject-name": {"a": "User"}},
		{"sobject-name": "Ùser"}, {"sobject-name": "U\u200bser"}, {"sobject-name": ""}, {"sobject-name": "Account/../User"},
		{"sobject-name": "Account", "object": 5},
	] {
		denied("createSobjectRecord", arguments)
		denied("updateSobjectRecord", arguments)
	}
	denied("salesforce_dml_records", {"operation": "frobnicate", "objectName": "Account"})
	denied("salesforce_dml_records", {"objectName": "Account"})
}

test_further_objects_can_be_protected if {
	every listed in [["Salary__c"], ["salary__C"]] {
		some found in admin_and_code.findings with input as calls.with_params("create_record", {"object": "Salary__c"}, {"protected_objects": listed})
		found.action == "DENY"
	}
	every broken in ["Salary__c", [5], {"a": 1}] {
		some found in admin_and_code.findings with input as calls.with_params("create_record", {"object": "Account"}, {"protected_objects": broken})
		found.action == "DENY"
	}
}
