package connectors_test.servicenow.tools

import rego.v2

import data.connectors_test.servicenow.calls

by_policy := {
	"sn-read": [
		"list_incidents", "get_user", "lookup_kb_records", "case_summarization", "email_recommendation", "CMDB Search",
		"Get_SimilarCI_Classes for creation", "change_risk_explanation", "sn__list_users", "get_script_include", "get_asset_user",
		"LIST_INCIDENTS",
	],
	"sn-incident-write": ["create_incident", "update_incident", "add_comment", "resolve_incident", "Create_Incident", "update_customer_case"],
	"sn-catalog-knowledge-write": [
		"create_catalog_category", "update_catalog_item", "move_catalog_items", "create_article", "publish_article",
		"create_knowledge_base", "create_category", "create_story", "update_epic", "create_scrum_task", "update_project", "Create CI",
	],
	"sn-change-request": ["create_change_request", "update_change_request", "add_change_task", "submit_change_for_approval"],
	"sn-change-approval-and-workflow": [
		"approve_change", "reject_change", "create_workflow", "activate_workflow", "deactivate_workflow", "add_workflow_activity",
		"reorder_workflow_activities", "create_changeset", "add_file_to_changeset", "commit_changeset", "publish_changeset",
		"Flow generation", "APPROVE_CHANGE",
	],
	"sn-delete-block": [
		"delete_workflow_activity", "remove_group_members", "delete_catalog_item_variable", "record_delete", "purge_audit",
		"delete_story_dependency", "x__DELETE_INCIDENT",
	],
	"sn-admin-script-bulk": [
		"create_user", "update_user", "create_group", "update_group", "add_group_members", "create_script_include",
		"update_script_include", "execute_script_include", "run_background_script", "create_ui_policy", "create_user_criteria",
		"Code Assist", "load_import_set", "export_incidents", "bulk_update", "CREATE_USER",
	],
}

test_each_tool_is_of_its_policy_alone if {
	every policy, names in by_policy {
		every name in names {
			calls.found(name, {}) == {policy}
		}
	}
}

test_a_reading_name_does_not_hide_what_else_a_tool_does if {
	calls.finds("sn-admin-script-bulk", "get_or_create_user", {})
	calls.finds("sn-admin-script-bulk", "list_and_export", {})
	calls.finds("sn-delete-block", "get_and_delete_incident", {})
	calls.finds("sn-admin-script-bulk", "delete_script_include", {})
}

test_an_unheard_of_tool_is_of_none if calls.found("unheard_of", {"table": "sys_user"}) == set()
