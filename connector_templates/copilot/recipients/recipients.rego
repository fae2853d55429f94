# METADATA
# title: Whom a call reaches
# description: >-
#   The people that the arguments name, in to, cc, bcc, attendees or members, however deep, and
#   whether they are all inside the organisation. What cannot be read is outside.
# schemas:
#   - input: schema.input
package connectors.copilot.recipients

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools
import data.lib.addresses
import data.lib.values

# METADATA
# title: Domains
# description: >-
#   The parameter internal_domains as a set; empty, so that every address is external, when it is
#   missing. Undefined when it is unusable, and `domains_unusable` holds.
domains := addresses.usable(object.get(input.server.params, "internal_domains", []))

# METADATA
# title: Unusable domains
# description: The parameter internal_domains is no list of domains of one organisation.
domains_unusable if not domains

# METADATA
# title: Named
# description: The values under keys that name people, strings or not.
named contains value if {
	some [path, value] in _pairs
	not type_name(value) in {"array", "object"}
	not value in {null, ""}
	_names_people(path)
	not _is_label(path, value)
}

# METADATA
# title: Mentioned
# description: >-
#   Every text with an @ that is no content of a message, because the name of a key may be unknown
#   to us.
mentioned contains value if {
	some [path, value] in _pairs
	is_string(value)
	regex.match(`[@＠﹫]`, value)
	not _is_content(path)
	not _is_place(value)
}

# METADATA
# title: Outside
# description: What is named or mentioned and is not surely inside the organisation.
outside contains value if {
	some value in (named | mentioned)
	not _inside(value)
}

_pairs := values.opened(input.arguments)

_inside(value) if addresses.inside(_unbound(value), domains)

# The opaque id of a person of the directory says nothing: an approver must look.
_inside(value) if {
	is_string(value)
	regex.match(`^(?i:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$`, _unbound(value))
	not _sends
}

_sends if tools.sends_mail

_sends if "send" in requests.kinds

# user@odata.bind: "https://graph.microsoft.com/v1.0/users('ann@corp.example')"
_unbound(value) := regex.replace(value, `^https://graph\.microsoft\.com/(?:v1\.0|beta)/(?:users|directoryobjects|directoryObjects)(?:/|\(')([^/'()?#]*)(?:'\))?$`, "$1") if {
	is_string(value)
} else := value

_names_people(path) if {
	some step in path
	regex.match(
		`^(?:to|cc|bcc)$|recipient|attendee|^emailaddress|^emails?$|^mailto$|invitee|^members?$|^userids?$|^users?(?:odatabind)?$|^odataid$|^userprincipalnames?$|^upn$`,
		values.fold(step),
	)
}

# Beside an address stand names and roles.
_is_label(path, value) if {
	values.key(path) in {
		"datetime", "displayname", "name", "odatatype", "optional", "required", "response", "role", "roles", "status",
		"time", "timezone", "type", "visiblehistorystartdatetime",
	}
	not contains(sprintf("%v", [value]), "@")
}

_is_content(path) if {
	values.key(path) in {
		"body", "bodypreview", "comment", "content", "contentbytes", "contentid", "description", "html", "message",
		"odatacontext", "odataetag", "subject", "text", "title",
	}
}

# The id of a chat or channel, a path, and a string of JSON, whose members are looked at themselves.
_is_place(value) if regex.match(`^19:[^@\s]+@(?:thread\.[a-z0-9]+|unq\.gbl\.spaces)$|^\s*/|^https://graph\.microsoft\.com/`, value)

_is_place(value) if {
	regex.match(`^\s*[\[{]`, value)
	json.is_valid(value)
}
