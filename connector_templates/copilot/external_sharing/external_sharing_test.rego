package connectors_test.copilot.external_sharing

import rego.v2

import data.connectors.copilot.external_sharing
import data.connectors_test.copilot.calls

denied(name, arguments) if {
	some found in external_sharing.findings with input as calls.call(name, arguments)
	found.action == "DENY"
}

passes(name, arguments) if external_sharing.findings == set() with input as calls.call(name, arguments)

mail := "mcp_MailTools_graph_mail_sendMail"

senders := [mail, "workiq-mail___mcp_MailTools_graph_mail_sendMail", "SendEmail-SendEmail", "forwardMessage"]

graph(field, address) := {"message": {
	"subject": "x",
	"body": {"contentType": "Text", "content": "write to eve@evil.example"},
	"toRecipients": [{"emailAddress": {"name": "Ann", "address": "ann@corp.example"}}],
	field: [{"emailAddress": {"name": "Somebody", "address": address}}],
}}

test_mail_inside_passes if {
	every name in senders {
		passes(name, graph("ccRecipients", "Bob@CORP.example"))
		passes(name, {"to": "ann@corp.example; Bob <bob@corp.example>", "subject": "hi", "body": "eve@evil.example wrote"})
		passes(name, {"message": `{"toRecipients": [{"emailAddress": {"address": "ann@corp.example"}}]}`})
	}
}

outsiders := [
	"eve@evil.example", "EVE@Evil.Example", "Ann <eve@evil.example>", `"ann@corp.example" <eve@evil.example>`,
	"eve@corp.example.evil.example", "eve@evilcorp.example", "eve@eu.corp.example", "ann@corp.example, eve@evil.example",
	"ann@corp.example;eve@evil.example", "eve@cοrp.example", "eve@", "@corp.example", "ann@corp.example <eve@evil.example>",
]

unreadable := ["eve", "ann", 5, true, "11111111-1111-1111-1111-111111111111"]

test_mail_outside_is_denied_in_every_field_and_spelling if {
	every address in array.concat(outsiders, unreadable) {
		denied(mail, graph("bccRecipients", address))
		denied(mail, {"to": "ann@corp.example", "x": {"cc": [address]}})
	}
	every address in ["EVE@Evil.Example", "Ann <eve@evil.example>", 5] {
		every field in ["toRecipients", "ccRecipients", "bccRecipients", "TORECIPIENTS", "bcc_recipients"] {
			denied(mail, graph(field, address))
		}
		every key in ["to", "cc", "bcc", "To", "BCC", "recipients", "emailAddresses"] {
			denied(mail, {"to": "ann@corp.example", "x": {key: [address]}})
		}
	}
	every place, address in outsiders {
		denied(senders[place % 4], outward(address)[place % 5])
	}
}

# Shapes that a mail outside may have; the gateway's own tests ask about each sender, shape and address.
outward(address) := [
	graph("undisclosed", address), {"to": "ann@corp.example", "replyTo": address}, {"to": address}, {"BCC": [address]},
	{"message": json.marshal({"toRecipients": [{"emailAddress": {"address": address}}]})},
]

test_mail_without_a_recipient_that_can_be_read_is_denied if {
	every name in senders {
		every arguments in [{}, {"message": "VG86IGV2ZUBldmlsLmV4YW1wbGU="}, {"to": []}, {"to": null}, {"to": ""}, {"toRecipients": [{}]}] {
			denied(name, arguments)
		}
	}
}

test_drafts_and_events_may_have_no_recipient_but_none_outside if {
	every name in ["mcp_MailTools_graph_mail_createMessage", "mcp_MailTools_graph_mail_updateMessage", "mcp_CalendarTools_graph_createEvent"] {
		passes(name, {"subject": "x", "body": {"content": "mail eve@evil.example"}})
		passes(name, {"attendees": [{
			"emailAddress": {"address": "ann@corp.example", "name": "Ann"},
			"type": "required",
			"status": {"response": "none", "time": "0001-01-01T00:00:00Z"},
		}]})
		denied(name, {"attendees": [{"emailAddress": {"address": "eve@evil.example"}}]})
		denied(name, {"toRecipients": "eve@evil.example"})
	}
}

test_members_from_outside_are_denied if {
	every name in ["mcp_graph_chat_addChatMember", "mcp_graph_teams_addChannelMember"] {
		passes(name, {"user@odata.bind": "https://graph.microsoft.com/v1.0/users('ann@corp.example')"})
		passes(name, {"chatId": "19:x@thread.v2", "userId": "11111111-1111-1111-1111-111111111111", "roles": ["owner"]})
		denied(name, {"user@odata.bind": "https://graph.microsoft.com/v1.0/users('eve@evil.example')"})
		denied(name, {"members": [{"email": "eve@evil.example"}]})
		denied(name, {"chatId": "x"})
	}
	denied("mcp_graph_chat_createChat", {"members": [{"email": "eve@evil.example"}]})
	passes("mcp_graph_teams_updateChannelMember", {"membershipId": "x"})
}

test_sharing_is_for_people_inside if {
	every arguments in [
		{"recipientEmails": ["ann@corp.example"], "roles": ["read"]}, {"scope": "organization"}, {"scope": "Users", "emails": "ann@corp.example"},
		{"scope": null, "recipients": [{"email": "ann@corp.example"}]},
	] {
		passes("shareFileOrFolder", arguments)
	}
	every arguments in [
		{"recipientEmails": ["eve@evil.example"]}, {"scope": "anonymous"}, {"Link-Scope": "ANONYMOUS"}, {"link": {"kind": "anyone"}},
		{"recipients": ["ann@corp.example"], "type": "anonymous"}, {"options": `{"scope": "anonymous"}`}, {}, {"scope": 5},
		{"scope": ["organization"]}, {"scope": "galaxy"}, {"recipients": ["ann"]},
	] {
		denied("shareFileOrFolder", arguments)
	}
	denied("do_action", {"path": "/me/drive/items/1/createLink", "body": {"type": "view", "scope": "anonymous"}})
	denied("do_action", {"path": "/me/drive/items/1/createLink", "body": {"type": "view"}})
	denied("do_action", {"path": "/me/drive/items/1/invite", "body": {"recipients": [{"email": "eve@evil.example"}]}})
	denied("create_entity", {"path": "/me/drive/items/1/permissions", "body": {}})
}

test_generic_sends_are_for_people_inside if {
	denied("do_action", {"path": "/me/sendMail", "body": {"message": {"bccRecipients": [{"emailAddress": {"address": "eve@evil.example"}}]}}})
	denied("do_action", {"path": "/me/sendMail", "body": {"message": {"subject": "x"}}})
	denied("do_action", {"path": "/me/sendMail", "to": ["11111111-1111-1111-1111-111111111111"]})
	denied("do_action", {"path": "/me/messages/1/forward", "body": {"toRecipients": [{"emailAddress": {"address": "eve@evil.example"}}]}})
	denied("do_action_work_iq", {"path": "/me/sendMail", "body": "VG86IGV2ZUBldmlsLmV4YW1wbGU="})
	denied("create_entity", {"path": "/me/events", "body": {"attendees": [{"emailAddress": {"address": "eve@evil.example"}}]}})
	denied("create_entity", {"path": "/teams/x/members", "body": {"roles": ["owner"]}})
	denied("create_entity", {"path": "/chats", "body": {"members": [{"user@odata.bind": "https://graph.microsoft.com/v1.0/users('eve@evil.example')"}]}})
}

test_an_address_may_not_hide_among_ids_and_paths if {
	passes("create_entity", {"path": "/chats/19:x@thread.v2/members", "body": {"@odata.id": "https://graph.microsoft.com/v1.0/directoryObjects/11111111-1111-1111-1111-111111111111"}})
	denied("create_entity", {"path": "/chats/19:x@thread.v2/members", "body": {"@odata.id": "https://graph.microsoft.com/v1.0/users/eve@evil.example"}})
	denied(mail, {"to": "ann@corp.example", "chatId": "19:x@thread.evil.example"})
	denied(mail, {"to": "ann@corp.example", "note": "[eve@evil.example"})
	passes(mail, {"request": `{"to": "ann@corp.example"}`})
	denied(mail, {"request": `{"to": "eve@evil.example"}`})
}

test_reading_reaches_nobody if {
	passes("mcp_MailTools_graph_mail_searchMessages", {"from": "eve@evil.example"})
	passes("fetch", {"entityUrls": ["/me/messages"], "filter": "from eq 'eve@evil.example'"})
}

test_without_usable_domains_everybody_is_outside if {
	every params in [
		{}, {"internal_domains": []}, {"internal_domains": null}, {"internal_domains": "corp.example"}, {"internal_domains": ["*"]},
		{"internal_domains": ["corp.example", "com"]}, {"internal_domains": ["corp.example", 5]}, {"internal_domains": {"a": "corp.example"}},
	] {
		some found in external_sharing.findings with input as calls.with_params(mail, {"to": "ann@corp.example"}, params)
		found.action == "DENY"
	}
}
