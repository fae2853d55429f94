# METADATA
# title: Change requests
# description: Drafting a change is safe, and recorded.
# schemas:
#   - input: schema.input
package connectors.servicenow.change_request

import rego.v2

import data.connectors.servicenow.tables
import data.connectors.servicenow.tools

# METADATA
# title: Change requests
# description: By the tool's name; of a tool for any table, by the table that it is told.
# labels:
#   policy: sn-change-request
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "sn-change-request",
	"reason": "drafting a change is safe, and recorded",
} if {
	_matches
}

_matches if tools.writes_changes

_matches if {
	tools.writes_table
	some _ in tables.changes
}
