# METADATA
# title: Catalogue, knowledge and other content
# description: Changes of content pass and are recorded.
# schemas:
#   - input: schema.input
package connectors.servicenow.catalog_knowledge_write

import rego.v2

import data.connectors.servicenow.tables
import data.connectors.servicenow.tools

# METADATA
# title: Catalogue, knowledge and other content
# description: By the tool's name; of a tool for any table, by the table that it is told.
# labels:
#   policy: sn-catalog-knowledge-write
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "sn-catalog-knowledge-write",
	"reason": "changes of content are monitored",
} if {
	_matches
}

_matches if tools.writes_content

_matches if {
	tools.writes_table
	some _ in tables.content
}
