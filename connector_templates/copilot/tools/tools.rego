# METADATA
# title: What a Microsoft 365 tool does
# description: >-
#   Kinds of tools by their names, in Work IQ's servers, old and new, and in Copilot Studio's
#   connectors. A tool may be of several kinds. Names are compared in lower case without
#   separators.
# schemas:
#   - input: schema.input
package connectors.copilot.tools

import rego.v2

import data.lib.tool_names

# METADATA
# title: Reads
# description: Tools that read mail, calendars, chats, sites, files and people.
reads if {
	regex.match(
		`(?m)graphmail(?:getmessage|searchmessages|listsent)$|calendartoolsgraph(?:get|list|find)|graph(?:chat|teams)(?:get|list)|^(?:findsite|findfileorfolder|read\w*textfile|getfileorfoldermetadata\w*|getfolderchildren\w*|getonedrive|listdocumentlibrar\w*|getdefaultdocumentlibrar\w*|wordgetdocumentcontent)$|sharepoint(?:list|search|get)|graph(?:getmy|getuser|listusers)|^(?:ask|listagents|getschema|searchpaths|fetchblob)$`,
		tool_names.squeezed,
	)
}

# METADATA
# title: Sends mail
# description: Tools that send mail to recipients that their arguments name.
sends_mail if regex.match(`(?m)sendmail|sendemail|sendanemail|graphmail(?:create)?forward|^forward(?:mail|message|email)?$`, tool_names.squeezed)

# METADATA
# title: Writes mail
# description: Tools that draft mail, and that create, change or answer events.
writes_mail if regex.match(`(?m)graphmail(?:create|update)message$|graph(?:create|update|accept|decline)event$`, tool_names.squeezed)

# METADATA
# title: Writes documents
# description: Tools that create, move, rename or change files, documents and lists.
writes_documents if {
	regex.match(
		`(?m)^(?:createfolder|createsmalltextfile|movesmallfile|renamefileorfolder|wordcreate|wordreplytocomment)|sharepoint(?:createlist|editlist|updatelistitem)|uploadblob`,
		tool_names.squeezed,
	)
}

# METADATA
# title: Posts
# description: Tools that post to Teams or change chats and channels.
posts if regex.match(`(?m)graphchat(?:createchat|postmessage|updatechat|updatechatmessage)$|graphteams(?:postchannelmessage|replytochannelmessage|createchannel|createprivatechannel|updatechannel)$`, tool_names.squeezed)

# METADATA
# title: Creates chats
# description: Posting tools whose arguments name the people of a chat or channel.
creates_chats if regex.match(`(?m)createchat$|createprivatechannel$`, tool_names.squeezed)

# METADATA
# title: Deletes
# description: Tools that delete or cancel, whatever.
deletes if regex.match(`(?m)delete(?:[^d]|$)|cancelevent|remove|purge`, tool_names.squeezed)

# METADATA
# title: Sends unseen
# description: Tools that send to people whom their arguments do not name.
sends_unseen if regex.match(`(?m)senddraft|(?:mail|^|createreply|message)(?:reply|replyall)(?:toemail|toanemail)?$|replytoemail`, tool_names.squeezed)

# METADATA
# title: Changes members
# description: Tools that let people into a chat or channel.
changes_members if regex.match(`(?:add|update)(?:chat|channel|team|group)members?`, tool_names.squeezed)

# METADATA
# title: Adds members
# description: Those of them that name new people.
adds_members if regex.match(`add(?:chat|channel|team|group)members?`, tool_names.squeezed)

# METADATA
# title: Shares
# description: Tools that share files and folders.
shares if regex.match(`(?m)sharefileorfolder|sharefile|sharefolder|createsharinglink|createlink|^invite$`, tool_names.squeezed)

# METADATA
# title: Administers
# description: Tools that administer the tenant, run code, change labels, or move much at once.
administers if {
	regex.match(
		`(?m)admintools|admin365|graphtools$|setsensitivitylabel|executepython|codeinterpreter|runscript|executecode|export|bulk|^batch`,
		tool_names.squeezed,
	)
}

# METADATA
# title: Generic
# description: >-
#   The verb of a tool whose path says what happens: fetch, call, do, create, update or delete.
#   A tool of any other verb is not generic.
generic := verb if {
	some name in tool_names.plain
	verb := {
		"fetch": "fetch",
		"callfunction": "call",
		"doaction": "do",
		"createentity": "create",
		"updateentity": "update",
		"deleteentity": "delete",
	}[name]
}
