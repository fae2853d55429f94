# METADATA
# title: Mail and calendar
# description: Mail inside the organisation passes and is recorded; another policy stops recipients outside.
# schemas:
#   - input: schema.input
package connectors.copilot.mail_write

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools

# METADATA
# title: Mail and calendar
# description: By the tool's name; of a generic tool, by the path that it is told.
# labels:
#   policy: m365-mail-write
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "m365-mail-write",
	"reason": "the call writes or sends mail, or changes a calendar",
} if {
	_matches
}

_matches if tools.sends_mail

_matches if tools.writes_mail

_matches if "mail" in requests.kinds

_matches if "send" in requests.kinds
