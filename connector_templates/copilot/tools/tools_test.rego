package connectors_test.copilot.tools

import rego.v2

import data.connectors_test.copilot.calls

found(name, arguments) := calls.found(calls.call(name, arguments))

ann := {"message": {"toRecipients": [{"emailAddress": {"address": "ann@corp.example"}}]}}

test_reading_is_recorded if {
	every name in [
		"mcp_MailTools_graph_mail_getMessage", "workiq-mail___mcp_MailTools_graph_mail_searchMessages",
		"mcp_CalendarTools_graph_listCalendarView", "mcp_graph_chat_listChats", "mcp_graph_teams_getTeam", "findSite",
		"readSmallTextFile", "getFolderChildrenInMyOnedrive", "sharepoint_listListItems", "mcp_graph_getMyProfile", "ask",
		"list_agents_work_iq", "WORDGETDOCUMENTCONTENT",
	] {
		found(name, {}) == {"m365-read"}
	}
}

test_writing_inside_is_recorded if {
	every name in ["mcp_MailTools_graph_mail_sendMail", "SendEmail-SendEmail", "cra65_x.action.Send-an-email", "forwardMessage"] {
		found(name, ann) == {"m365-mail-write"}
	}
	every name in ["mcp_CalendarTools_graph_createEvent", "mcp_MailTools_graph_mail_updateMessage"] {
		found(name, {"subject": "x"}) == {"m365-mail-write"}
	}
	every name in ["createFolder", "moveSmallFile", "WordCreateNewDocument", "WordReplyToComment", "sharepoint_updateListItem", "upload_blob_work_iq"] {
		found(name, {}) == {"m365-document-write"}
	}
	every name in ["mcp_graph_chat_postMessage", "mcp_graph_teams_replyToChannelMessage", "mcp_graph_teams_createPrivateChannel"] {
		found(name, {}) == {"m365-teams-post"}
	}
}

test_deletions_and_unseen_recipients_ask if {
	every name in [
		"mcp_MailTools_graph_mail_deleteMessage", "deleteFileOrFolder", "mcp_graph_chat_deleteChat", "mcp_graph_chat_deleteChatMessage",
		"mcp_CalendarTools_graph_cancelEvent", "sharepoint_deleteListItem", "mcp_MailTools_graph_mail_sendDraft",
		"mcp_MailTools_graph_mail_reply", "mcp_MailTools_graph_mail_replyAll", "workiq-mail___mcp_MailTools_graph_mail_sendDraft",
	] {
		found(name, {"id": "AAMk"}) == {"m365-delete-or-unseen-recipient"}
	}
	found("mcp_graph_chat_addChatMember", {"userId": "ann@corp.example"}) == {"m365-delete-or-unseen-recipient"}
	found("mcp_graph_teams_updateChannelMember", {"membershipId": "x", "roles": ["owner"]}) == {"m365-delete-or-unseen-recipient"}
	found("shareFileOrFolder", {"recipientEmails": ["ann@corp.example"]}) == {"m365-delete-or-unseen-recipient"}
}

test_administration_code_and_bulk_are_denied if {
	every name in [
		"mcp_AdminTools_anything", "mcp_Admin365_GraphTools", "setSensitivityLabelOnFile", "ExecutePython-ExecutePython",
		"code_interpreter", "RunScript", "export_mailbox", "bulk_delete", "batch_get",
	] {
		calls.finds("m365-admin-code-bulk", name, {})
	}
}
