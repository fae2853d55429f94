# METADATA
# title: Incidents and cases
# description: Work on incidents passes and is recorded.
# schemas:
#   - input: schema.input
package connectors.servicenow.incident_write

import rego.v2

import data.connectors.servicenow.tables
import data.connectors.servicenow.tools

# METADATA
# title: Incidents and cases
# description: By the tool's name; of a tool for any table, by the table that it is told.
# labels:
#   policy: sn-incident-write
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "sn-incident-write",
	"reason": "incidents and cases are monitored",
} if {
	_matches
}

_matches if tools.writes_incidents

_matches if {
	tools.writes_table
	some _ in tables.incidents
}
