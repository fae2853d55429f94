# METADATA
# title: Deleting records
# description: Salesforce itself asks for human review of deletions, and no tool restores what was deleted.
# schemas:
#   - input: schema.input
package connectors.salesforce.record_delete

import rego.v2

import data.connectors.salesforce.tools

# METADATA
# title: Deleting records
# description: The tool's name, or its argument `operation`, says that it deletes records.
# labels:
#   policy: sf-record-delete
#   action: REQUIRE_APPROVAL
findings contains {
	"action": "REQUIRE_APPROVAL",
	"policy_id": "sf-record-delete",
	"reason": "the tool deletes records, and no tool restores them",
} if {
	tools.deletes
}
