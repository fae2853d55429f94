# METADATA
# title: External sharing
# description: >-
#   Nothing is sent to, shared with or opened for anybody outside `internal_domains`. A recipient
#   that cannot be read is outside; without the parameter everybody is.
# schemas:
#   - input: schema.input
package connectors.copilot.external_sharing

import rego.v2

import data.connectors.copilot.recipients
import data.connectors.copilot.requests
import data.connectors.copilot.tools
import data.lib.values

# METADATA
# title: External sharing is denied
# description: Of tools that reach people, by the people and links that their arguments name.
# labels:
#   policy: m365-external-sharing
#   action: DENY
findings contains {"action": "DENY", "policy_id": "m365-external-sharing", "reason": reason} if some reason in _reasons

# Addresses are personal and stay in the recorded input: a reason is shown more widely.
_reasons contains "a recipient is outside internal_domains, or cannot be read" if {
	_reaches_people
	some _ in recipients.outside
}

_reasons contains "the parameter internal_domains is no list of domains of one organisation" if {
	_reaches_people
	recipients.domains_unusable
}

_reasons contains "the call names no recipient that can be read" if {
	_must_name
	recipients.named == set()
}

_reasons contains "a link is open to everybody, or its scope cannot be read" if {
	_shares
	some scope in _scopes
	not scope in {"organization", "users", "existingaccess"}
}

_reasons contains "the call names neither people nor the scope of a link" if {
	_shares
	recipients.named == set()
	_scopes == set()
}

_reasons contains "the call goes to a host outside Microsoft Graph" if requests.foreign

_reaches_people if _must_name

_reaches_people if tools.writes_mail

_reaches_people if tools.changes_members

_reaches_people if tools.creates_chats

_reaches_people if _shares

_reaches_people if some kind in (requests.kinds & {"mail", "send", "member", "post", "unseen", "unknown"})

_must_name if tools.sends_mail

_must_name if tools.adds_members

_must_name if "send" in requests.kinds

_must_name if {
	"member" in requests.kinds
	tools.generic in {"create", "do"}
}

_shares if tools.shares

_shares if "share" in requests.kinds

# Anything but a word is a scope that cannot be read.
_scopes := {_word(scope) |
	some scope in values.named(input.arguments, {"linkscope", "scope", "sharingscope"})
	scope != null
} | {"anonymous" |
	some word in _words
	word in {"anonymous", "anyone", "anyonewithlink", "anonymouslink", "public", "everyone"}
}

_words := {values.fold(value) |
	some [_, value] in values.opened(input.arguments)
	is_string(value)
}

_word(scope) := values.fold(scope) if {
	is_string(scope)
} else := "unreadable"
