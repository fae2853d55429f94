# METADATA
# title: Deletions
# description: >-
#   Deletions are blocked. To let them ask instead, override the policy on a server with
#   REQUIRE_APPROVAL.
# schemas:
#   - input: schema.input
package connectors.servicenow.delete_block

import rego.v2

import data.connectors.servicenow.tools
import data.lib.values

# METADATA
# title: Deletions are denied
# description: By the tool's name, by the HTTP method, and by an operation that the arguments name.
# labels:
#   policy: sn-delete-block
#   action: DENY
findings contains {"action": "DENY", "policy_id": "sn-delete-block", "reason": reason} if some reason in _reasons

_reasons contains "deletions are blocked" if tools.deletes

_reasons contains "deletions are blocked" if {
	not tools.reads
	some said in values.named(input.arguments, {"action", "httpmethod", "method", "operation", "requestmethod", "verb", "xhttpmethodoverride"})
	values.fold(said) in {"delete", "deletemultiple", "deleterecord", "purge", "remove", "truncate"}
}

_reasons contains "the call's method cannot be read" if {
	tools.requests
	not tools.method in {"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"}
}
