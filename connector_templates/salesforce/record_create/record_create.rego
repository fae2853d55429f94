# METADATA
# title: Creating records
# description: Writes pass and are recorded with their arguments.
# schemas:
#   - input: schema.input
package connectors.salesforce.record_create

import rego.v2

import data.connectors.salesforce.tools

# METADATA
# title: Creating records
# description: The tool's name, or its argument `operation`, says that it creates records.
# labels:
#   policy: sf-record-create
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "sf-record-create",
	"reason": "the tool creates records; writes are monitored",
} if {
	tools.creates
}
