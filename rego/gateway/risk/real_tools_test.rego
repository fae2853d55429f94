package gateway.real_tools_test

import rego.v2

# Names of the tools that Microsoft 365, Salesforce and ServiceNow servers really offer, by what they do.
reading := [
	"mcp_MailTools_graph_mail_getMessage", "mcp_MailTools_graph_mail_searchMessages",
	"mcp_MailTools_graph_mail_listSent", "mcp_CalendarTools_graph_getEvent",
	"mcp_CalendarTools_graph_listEvents", "mcp_CalendarTools_graph_listCalendarView",
	"mcp_CalendarTools_graph_getSchedule", "mcp_graph_chat_getChat", "mcp_graph_chat_listChats",
	"mcp_graph_chat_getChatMessage", "mcp_graph_chat_listChatMessages", "mcp_graph_chat_listChatMembers",
	"mcp_graph_teams_getChannel", "mcp_graph_teams_listChannels", "mcp_graph_teams_listChannelMessages",
	"mcp_graph_teams_listChannelMembers", "mcp_graph_teams_getTeam", "mcp_graph_teams_listTeams",
	"readSmallTextFile", "getFileOrFolderMetadata", "getFileOrFolderMetadataByUrl", "getFolderChildren",
	"getFolderChildrenInMyOnedrive", "getOnedrive", "listDocumentLibrariesInSite",
	"getDefaultDocumentLibraryInSite", "sharepoint_listLists", "sharepoint_search", "sharepoint_listListItems",
	"WordGetDocumentContent", "mcp_graph_getMyProfile", "mcp_graph_listUsers", "list_agents", "get_schema",
	"search_paths", "getObjectSchema", "soqlQuery", "getUserInfo", "listRecentSobjectRecords",
	"getRelatedRecords", "run_soql_query", "list_all_orgs", "get_username", "query_records",
	"salesforce_query_records", "run_sosl_search", "get_record", "list_objects", "search_records",
	"Get_SimilarCI_Classes for creation", "CMDB Search", "get_all_application_service_names",
	"get_all_application_services_for_a_server", "get_application_service_topology",
	"get_server_impact_graph", "get_unmapped_topology", "list_incidents", "list_change_requests",
	"get_change_request_details", "list_workflows", "get_workflow", "list_changesets", "get_changeset",
	"list_script_includes", "get_script_include", "get_user", "list_users", "list_groups",
]

unrecognised := [
	"mcp_CalendarTools_graph_findMeetingTimes", "findFileOrFolder", "findSite", "fetch", "ask",
	"find", "run_apex_test", "run_agent_test", "retrieve_metadata", "discover", "describe", "describe_object",
	"case_summarization", "incident_summarization", "email_recommendation", "lookup_case_records",
	"lookup_incident_records", "lookup_kb_records",
]

changing := [
	"mcp_CalendarTools_graph_acceptEvent", "mcp_CalendarTools_graph_declineEvent", "moveSmallFile",
	"renameFileOrFolder", "call_function", "add_comment", "resolve_incident", "add_change_task",
	"submit_change_for_approval", "reorder_workflow_activities", "move_catalog_items",
]

harmful := [
	"mcp_MailTools_graph_mail_createMessage", "mcp_MailTools_graph_mail_sendMail",
	"mcp_MailTools_graph_mail_sendDraft", "mcp_MailTools_graph_mail_reply",
	"mcp_MailTools_graph_mail_replyAll", "mcp_MailTools_graph_mail_updateMessage",
	"mcp_MailTools_graph_mail_deleteMessage", "workiq-mail___mcp_MailTools_graph_mail_sendMail",
	"mcp_CalendarTools_graph_createEvent", "mcp_CalendarTools_graph_updateEvent",
	"mcp_CalendarTools_graph_deleteEvent", "mcp_CalendarTools_graph_cancelEvent",
	"mcp_graph_chat_createChat", "mcp_graph_chat_updateChat", "mcp_graph_chat_deleteChat",
	"mcp_graph_chat_postMessage", "mcp_graph_chat_updateChatMessage", "mcp_graph_chat_deleteChatMessage",
	"mcp_graph_chat_addChatMember", "mcp_graph_teams_createChannel", "mcp_graph_teams_createPrivateChannel",
	"mcp_graph_teams_updateChannel", "mcp_graph_teams_postChannelMessage",
	"mcp_graph_teams_replyToChannelMessage", "mcp_graph_teams_addChannelMember",
	"mcp_graph_teams_updateChannelMember", "createFolder", "createSmallTextFile", "deleteFileOrFolder",
	"shareFileOrFolder", "setSensitivityLabelOnFile", "sharepoint_createList", "sharepoint_createListColumn",
	"sharepoint_editListColumn", "sharepoint_deleteListColumn", "sharepoint_createListItem",
	"sharepoint_updateListItem", "sharepoint_deleteListItem", "WordCreateNewDocument", "WordCreateNewComment",
	"WordReplyToComment", "create_entity", "update_entity", "delete_entity", "do_action", "do_action_work_iq",
	"upload_blob", "Send-an-email", "createSobjectRecord", "updateSobjectRecord", "updateRelatedRecord",
	"updateRelatedSobjectRecord", "deleteSobjectRecord", "deleteRelatedRecord", "deleteRelatedSobjectRecord",
	"deploy_metadata", "open_org", "create_scratch_org", "create_org_snapshot", "delete_org",
	"assign_permission_set", "resume_tool_operation", "promote_devops_center_work_item",
	"salesforce_dml_records", "create_record", "update_record", "delete_record", "restful",
	"salesforce_manage_object", "Create CI", "create_incident", "update_incident", "create_change_request",
	"update_change_request", "approve_change", "reject_change", "create_workflow", "update_workflow",
	"activate_workflow", "deactivate_workflow", "add_workflow_activity", "update_workflow_activity",
	"delete_workflow_activity", "create_changeset", "update_changeset", "add_file_to_changeset",
	"commit_changeset", "publish_changeset", "create_script_include", "update_script_include",
	"delete_script_include", "create_user", "update_user", "create_group", "update_group",
	"add_group_members", "remove_group_members", "create_article", "update_article", "publish_article",
	"delete_story_dependency", "delete_catalog_item_variable", "mcp_AdminTools_anything",
	"mcp_Admin365_GraphTools", "bulk_export", "export_report",
]

running := [
	"ExecutePython-ExecutePython", "code_interpreter", "RunScript", "execute_script_include",
	"tooling_execute", "apex_execute", "execute_anonymous_apex", "run_background_script", "run_command",
]

test_reading_tools_are_low if {
	every name in reading {
		data.gateway.risk.level == "LOW" with input as {"tool": {"name": name}}
	}
}

test_unrecognised_tools_are_medium if {
	every name in unrecognised {
		data.gateway.risk.level == "MEDIUM" with input as {"tool": {"name": name}}
	}
}

test_mild_changes_are_medium_or_high if {
	every name in changing {
		data.gateway.risk.level in {"MEDIUM", "HIGH"} with input as {"tool": {"name": name}}
	}
}

test_destructive_outward_and_admin_tools_are_at_least_high if {
	every name in harmful {
		data.gateway.risk.level in {"HIGH", "CRITICAL"} with input as {"tool": {"name": name}}
	}
}

test_tools_that_run_code_are_critical if {
	every name in running {
		data.gateway.risk.level == "CRITICAL" with input as {"tool": {"name": name}}
	}
}
