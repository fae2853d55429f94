package connectors_test.copilot.requests

import rego.v2

import data.connectors_test.copilot.calls

found(name, arguments) := calls.found(calls.call(name, arguments))

recorded := {
	{"m365-read"}: [
		["fetch", {"entityUrls": ["/me/messages", "https://graph.microsoft.com/v1.0/users/ann@corp.example"]}],
		["fetch_work_iq", {"entityUrls": "/me/events"}],
		["fetch", {"entityUrls": ["/me/events"], "method": " get", "verb": null}],
		["call_function", {"functionUrl": "/search/query"}],
		["do_action", {"path": "/search/query", "body": {"requests": []}}],
	],
	{"m365-mail-write"}: [
		["do_action", {"path": "/me/sendMail", "body": {"message": {"toRecipients": [{"emailAddress": {"address": "ann@corp.example"}}]}}}],
		["do_action", {"path": "/me//microsoft.graph.sendMail/", "body": `{"message": {"toRecipients": [{"emailAddress": {"address": "ann@corp.example"}}]}}`}],
		["create_entity", {"path": "/me/messages", "body": {"subject": "https://evil.example/x"}}],
		["update_entity", {"entityUrl": "/v1.0/me/events/AAMk", "body": {"subject": "/users"}}],
		["do_action", {"path": "/me/events/AAMk/accept", "body": {"comment": "fine"}}],
	],
	{"m365-document-write"}: [
		["create_entity", {"path": "/me/drive/root/children", "body": {}}],
		["update_entity", {"path": "/sites/x/lists/y/items/1", "body": {}}],
		["do_action", {"path": "/me/drive/items/1/copy"}],
	],
	{"m365-teams-post"}: [["create_entity", {"path": "/chats/19:x/messages", "body": {"body": {"content": "hi"}}}]],
	{"m365-delete-or-unseen-recipient"}: [
		["delete_entity", {"path": "/me/messages/AAMk"}],
		["do_action", {"path": "/me/events/AAMk/cancel"}],
		["do_action", {"path": "/me/messages/AAMk/send"}],
		["do_action", {"path": "/me/messages/AAMk/replyAll", "body": {"comment": "x"}}],
		["do_action", {"path": "/me/unheardOf"}],
		["create_entity", {"path": "/me/contacts", "body": {}}],
		["do_action", {"path": "/me/drive/items/1/createLink", "body": {"scope": "organization"}}],
		["do_action", {"path": "/me/drive/items/1/invite", "body": {"recipients": [{"email": "ann@corp.example"}]}}],
		["create_entity", {"path": "/teams/x/members", "body": {"user@odata.bind": "https://graph.microsoft.com/v1.0/users('ann@corp.example')"}}],
		["update_entity", {"path": "/teams/x/members/y", "body": {"roles": ["owner"]}}],
		["create_entity", {"path": "/me/drive/items/1/permissions", "body": {"scope": "users", "emails": ["ann@corp.example"]}}],
	],
}

test_the_path_says_what_a_verb_does if {
	every policies, listed in recorded {
		every call in listed {
			found(call[0], call[1]) == policies
		}
	}
}

test_administrative_paths_are_denied_in_every_spelling if {
	every path in [
		"/users", "/Users/1", "//users", "/v1.0/users", "/beta/groups", "/me/../users", "/%75sers", "users('1')",
		"https://graph.microsoft.com/v1.0/applications", "/servicePrincipals", "/directoryRoles/x/members/$ref", "/subscriptions",
		"/me/mailFolders/inbox/messageRules", "/me/MailFolders('inbox')/MessageRules", "/me/mailboxSettings", "/me/authentication/methods",
		"/policies/x", "/", "/$batch", "/me/appRoleAssignments", "/v1.0", "\\users\\x",
	] {
		calls.finds("m365-admin-code-bulk", "do_action", {"path": path, "body": {}})
	}
	every name in ["create_entity", "update_entity", "delete_entity_work_iq"] {
		every path in ["/users", "/%75sers", "/$batch", "\\users\\x"] {
			calls.finds("m365-admin-code-bulk", name, {"path": path, "body": {}})
		}
	}
}

test_a_call_that_cannot_be_read_is_denied if {
	every name in ["fetch", "call_function", "do_action", "create_entity", "update_entity", "delete_entity"] {
		every arguments in [
			{}, {"path": 5}, {"path": null}, {"path": ["/me", 5]}, {"path": ""}, {"path": "/me/%2573endMail"}, {"path": "/../x"},
			{"frobnicate": "me/sendMail"}, {"body": {"path": "/me/messages"}}, {"path": "ftp://x/y"}, {"path": {"a": "/me"}},
		] {
			calls.finds("m365-admin-code-bulk", name, arguments)
		}
	}
}

test_every_path_of_a_call_counts if {
	calls.finds("m365-admin-code-bulk", "do_action", {"path": "/me/sendMail", "url": "/users"})
	calls.finds("m365-admin-code-bulk", "do_action", {"path": "/me/sendMail", "frobnicate": "/users"})
	calls.finds("m365-admin-code-bulk", "delete_entity", {"entityUrls": ["/me/messages/1", "/groups/1"]})
}

test_a_reading_tool_that_is_told_to_act_is_denied if {
	every path in ["/me/sendMail", "/me/messages/1/forward", "/me/drive/items/1/createLink", "/$batch"] {
		calls.finds("m365-admin-code-bulk", "fetch", {"entityUrls": [path]})
		calls.finds("m365-admin-code-bulk", "call_function", {"path": path})
	}
	every arguments in [{"method": "DELETE"}, {"HTTP-Method": "post"}, {"verb": 5}, {"options": {"requestMethod": ["GET"], "method": "PATCH"}}] {
		calls.finds("m365-admin-code-bulk", "fetch", object.union({"entityUrls": ["/me/messages/1"]}, arguments))
	}
}

test_a_creating_tool_that_is_told_to_act_is_taken_by_what_it_does if {
	calls.finds("m365-external-sharing", "create_entity", {"path": "/me/sendMail", "body": {"toRecipients": ["eve@evil.example"]}})
	calls.finds("m365-delete-or-unseen-recipient", "create_entity", {"path": "/me/messages/1/reply"})
}

test_another_host_is_outside if {
	every path in ["https://evil.example/me/messages", "//evil.example/me", "https://graph.microsoft.com.evil.example/v1.0/me"] {
		calls.finds("m365-external-sharing", "fetch", {"entityUrls": [path]})
		calls.finds("m365-external-sharing", "do_action", {"path": path})
	}
}
