# METADATA
# title: Deletions and unseen recipients
# description: Deletions ask, and so does what reaches people whom the arguments do not name.
# schemas:
#   - input: schema.input
package connectors.copilot.delete_or_unseen_recipient

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools

# METADATA
# title: Deletions and unseen recipients
# description: By the tool's name; of a generic tool, by the path that it is told.
# labels:
#   policy: m365-delete-or-unseen-recipient
#   action: REQUIRE_APPROVAL
findings contains {
	"action": "REQUIRE_APPROVAL",
	"policy_id": "m365-delete-or-unseen-recipient",
	"reason": "the call deletes, shares, changes members, or reaches people whom the call does not name",
} if {
	_matches
}

_matches if tools.deletes

_matches if tools.sends_unseen

_matches if tools.changes_members

_matches if tools.shares

_matches if "delete" in requests.kinds

_matches if "unseen" in requests.kinds

_matches if "member" in requests.kinds

_matches if "share" in requests.kinds

_matches if "unknown" in requests.kinds
