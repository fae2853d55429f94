# METADATA
# title: Documents and lists
# description: Changes of documents pass and are recorded.
# schemas:
#   - input: schema.input
package connectors.copilot.document_write

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools

# METADATA
# title: Documents and lists
# description: By the tool's name; of a generic tool, by the path that it is told.
# labels:
#   policy: m365-document-write
#   action: LOG_ONLY
findings contains {
	"action": "LOG_ONLY",
	"policy_id": "m365-document-write",
	"reason": "the call changes files, documents or lists",
} if {
	_matches
}

_matches if tools.writes_documents

_matches if "document" in requests.kinds
