# METADATA
# title: Changing records
# description: Writes pass and are recorded with their arguments.
# schemas:
#   - input: schema.input
package connectors.salesforce.record_update

import rego.v2

import data.connectors.salesforce.tools

# METADATA
# title: Changing records
# description: The tool's name, or its argument `operation`, says that it updates records.
# labels:
#   policy: sf-record-update
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "sf-record-update",
	"reason": "the tool changes records; writes are monitored",
} if {
	tools.updates
}
