# METADATA
# title: What a generic call is about
# description: >-
#   Work IQ's tools are verbs, and the path in their arguments is the resource. This says, of each
#   path that the call names, what calling it does. A path that cannot be read, or a call without
#   one, is unreadable.
# schemas:
#   - input: schema.input
package connectors.copilot.requests

import rego.v2

import data.connectors.copilot.tools
import data.lib.paths
import data.lib.values

# METADATA
# title: Kinds
# description: >-
#   The kinds of everything that a generic call does: read, mail, send, unseen, document, post,
#   delete, member, share, admin, unknown.
kinds contains _kind(tools.generic, path) if some path in _paths

# METADATA
# title: Unreadable
# description: The call is generic, and names no path or one that cannot be read.
unreadable if {
	tools.generic
	_texts == set()
}

unreadable if {
	tools.generic
	some text in _texts
	not paths.read(text)
}

# METADATA
# title: Foreign
# description: A path of the call is a URL of another host than Microsoft Graph's.
foreign if {
	tools.generic
	some path in _paths
	not path.host in {"", "graph.microsoft.com", "graph.microsoft.us", "dod-graph.microsoft.us", "microsoftgraph.chinacloudapi.cn"}
}

_paths contains paths.read(text) if some text in _texts

_names := {
	"action", "actionname", "actionpath", "actionurl", "endpoint", "entity", "entitypath", "entityset",
	"entityseturl", "entityurl", "entityurls", "function", "functionpath", "functionurl",
	"parenturl", "path", "paths", "relativeurl", "requesturl", "resource", "resourcepath",
	"resourceurl", "target", "targetpath", "targeturl", "uri", "uris", "url", "urls",
}

# What stands under one of these names, whatever its type: {"path": 5} is a path that cannot be read.
_texts contains text if {
	tools.generic
	some [path, text] in _pairs
	_names[values.key(path)]
	not type_name(text) in {"array", "object"}
	not _inside_content(path)
}

_texts contains text if {
	tools.generic
	some text in input.arguments
	is_string(text)
	regex.match(`^\s*(?:[/\\]|(?i:https?:))`, text)
}

_pairs := values.opened(input.arguments)

# A link in a message's text is no path of the call.
_inside_content(path) if {
	some step in path
	values.fold(step) in {"attachments", "body", "content", "contexts", "fields", "item", "message", "payload", "value"}
}

# A tool that reads whatever it is told to reads only while it is told to read.
_method_writes if {
	some [path, method] in _pairs
	values.key(path) in {"httpmethod", "method", "requestmethod", "verb"}
	not _inside_content(path)
	not _reading_method(method)
}

_reading_method(method) if {
	is_string(method)
	upper(trim_space(method)) in {"", "GET", "HEAD"}
}

_reading_method(null)

# Of an action that a reading tool is told to call nobody knows what comes of it.
_kind(verb, path) := "admin" if {
	verb in {"fetch", "call"}
	object.get(_actions, paths.last(path), "read") != "read"
} else := "admin" if {
	verb in {"fetch", "call"}
	_method_writes
} else := "read" if {
	verb in {"fetch", "call"}
	not paths.under(path, {"$batch"})
} else := "admin" if {
	_is_admin(path)
} else := "delete" if {
	verb == "delete"
} else := _actions[paths.last(path)] if {
	paths.last(path) in object.keys(_actions)
} else := "unknown" if {
	verb == "do"
} else := _written(path)

# What a POST to a path that ends like this does.
_actions := {
	"accept": "mail", "cancel": "delete", "checkin": "document", "checkout": "document",
	"copy": "document", "createforward": "send", "createlink": "share", "createreply": "unseen",
	"createreplyall": "unseen", "decline": "mail", "delete": "delete", "forward": "send",
	"invite": "share", "move": "document", "permanentdelete": "delete", "query": "read",
	"reply": "unseen", "replyall": "unseen", "restore": "document", "send": "unseen",
	"sendmail": "send", "softdelete": "delete", "tentativelyaccept": "mail",
}

_written(path) := "member" if {
	paths.under(path, {"members", "$ref"})
} else := "share" if {
	paths.under(path, {"permissions", "invitations", "calendarpermissions"})
} else := "mail" if {
	paths.under(path, {"messages", "events"})
	not paths.under(path, {"chats", "teams"})
} else := "post" if {
	paths.under(path, {"chats", "teams"})
} else := "document" if {
	paths.under(path, {"drive", "drives", "sites"})
} else := "unknown"

_is_admin(path) if not _resource(path) in {"chats", "drive", "drives", "me", "search", "sites", "teams"}

_is_admin(path) if {
	some segment in path.segments
	_administrative[segment]
}

_resource(path) := path.segments[1] if {
	path.segments[0] in {"beta", "v1.0"}
} else := path.segments[0] if {
	count(path.segments) > 0
} else := ""

_administrative := {
	"$batch", "applications", "approleassignments", "assignlicense", "assignsensitivitylabel", "authentication",
	"batch", "bulk", "changepassword", "devices", "directoryobjects", "directoryroles", "exportitems",
	"groups", "installedapps", "mailboxsettings", "manageddevices", "messagerules",
	"oauth2permissiongrants", "owners", "retentionlabel", "revokesigninsessions",
	"roleassignments", "serviceprincipals", "setretentionlabel", "subscriptions", "users", "webhooks",
}
