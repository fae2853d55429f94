package connectors_test.servicenow.tables

import rego.v2

import data.connectors_test.servicenow.calls

test_a_table_says_what_is_written if {
	every table, policy in {
		"incident": "sn-incident-write", "sn_customerservice_case": "sn-incident-write", " Incident ": "sn-incident-write",
		"kb_knowledge": "sn-catalog-knowledge-write", "u_custom": "sn-catalog-knowledge-write", "sys_attachment": "sn-catalog-knowledge-write",
		"change_request": "sn-change-request", "change_task": "sn-change-request",
		"sysapproval_approver": "sn-change-approval-and-workflow", "wf_workflow": "sn-change-approval-and-workflow",
		"sys_update_set": "sn-change-approval-and-workflow",
	} {
		calls.found("create_record", {"table": table}) == {policy}
		calls.found("sn__update_record", {"table_name": table, "fields": {}}) == {policy}
	}
	every path in ["/api/now/table/incident/abc", "https://x.service-now.com/api/now/v2/table/incident"] {
		calls.found("rest_api", {"method": "PATCH", "path": path}) == {"sn-incident-write"}
	}
}

administrative := [
	"sys_user", "SYS_USER", " sys_user ", "sys_user_has_role", "sys_security_acl", "sys_properties", "sys_script_include",
	"sys_dictionary",
]

table_keys := ["table", "tableName", "TABLE_NAME", "sys_class_name"]

# The gateway's own tests ask about each table in each key.
test_administrative_tables_are_denied_however_spelled if {
	every key in table_keys {
		calls.finds("sn-admin-script-bulk", "create_record", {key: " SYS_USER "})
	}
	every place, table in administrative {
		calls.finds("sn-admin-script-bulk", "create_record", {"table": table})
		calls.finds("sn-admin-script-bulk", "update_record", {"table": "incident", "x": [{table_keys[place % 4]: table}]})
		calls.finds("sn-admin-script-bulk", "rest_call", {"method": "POST", "path": sprintf("/api/now//table/%s", [trim_space(table)])})
	}
	calls.finds("sn-admin-script-bulk", "create_record", {"table": "incident", "body": `{"table": "sys_user"}`})
	calls.finds("sn-admin-script-bulk", "update_incident", {"sys_class_name": "sys_user"})
	calls.finds("sn-admin-script-bulk", "rest_call", {"method": "POST", "path": "/api/now/table/%73ys_user"})
}

test_a_table_that_cannot_be_read_is_denied if {
	every arguments in [{}, {"table": 5}, {"table": null}, {"table": ["incident"]}, {"table": ""}, {"table": "incident^sys_user"}, {"table": "ｓys_user"}] {
		calls.finds("sn-admin-script-bulk", "create_record", arguments)
	}
	every path in [5, "", "/api/x/y", "/api/now/table", "/api/now/table/%2573ys_user", "/api/now/table/a%20b"] {
		calls.finds("sn-admin-script-bulk", "http_request", {"method": "POST", "path": path})
	}
}

test_further_tables_can_be_protected if {
	document := calls.with_params("create_record", {"table": "U_Salary"}, {"admin_tables": ["u_salary"]})
	calls.finds_in("sn-admin-script-bulk", document)
	every broken in ["u_salary", [5], {"a": 1}] {
		every name in ["create_record", "update_incident"] {
			calls.finds_in("sn-admin-script-bulk", calls.with_params(name, {"table": "incident"}, {"admin_tables": broken}))
		}
	}
}
