# METADATA
# title: Reading
# description: Mail and documents are sensitive, so reading passes and is recorded.
# schemas:
#   - input: schema.input
package connectors.copilot.read

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools

# METADATA
# title: Reading
# description: By the tool's name; of a generic tool, by the path that it is told.
# labels:
#   policy: m365-read
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "m365-read",
	"reason": "the call reads mail, calendars, chats, sites, files or people",
} if {
	_matches
}

_matches if tools.reads

_matches if "read" in requests.kinds
