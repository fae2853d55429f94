# METADATA
# title: Reading
# description: Reads run under the caller's own access controls, so they pass.
# schemas:
#   - input: schema.input
package connectors.servicenow.read

import rego.v2

import data.connectors.servicenow.tools

# METADATA
# title: Reading
# description: By the tool's name; of a tool for any table, by the table that it is told.
# labels:
#   policy: sn-read
#   action: ALLOW
findings contains {
	"action": "ALLOW",
	"policy_id": "sn-read",
	"reason": "reads run under the caller's own access controls",
} if {
	_matches
}

_matches if tools.reads

_matches if {
	tools.requests
	tools.method in {"GET", "HEAD"}
}
