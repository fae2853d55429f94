# METADATA
# title: Reading records
# description: Reads run under the user's own field and sharing rights, so they pass.
# schemas:
#   - input: schema.input
package connectors.salesforce.crm_read

import rego.v2

import data.connectors.salesforce.tools

# METADATA
# title: Reads pass
# description: The tool reads records, schema or metadata; bulk export is another policy's matter.
# labels:
#   policy: sf-crm-read
#   action: ALLOW
findings contains {
	"action": "ALLOW",
	"policy_id": "sf-crm-read",
	"reason": "reads run under the user's own field and sharing rights",
} if {
	tools.reads
}
