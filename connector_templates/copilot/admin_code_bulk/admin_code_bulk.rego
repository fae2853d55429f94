# METADATA
# title: Administration, code and bulk
# description: >-
#   An agent does not administer the tenant, run code, weaken labels, set inbox rules or move data
#   in bulk. What a generic tool is told to do must be readable.
# schemas:
#   - input: schema.input
package connectors.copilot.admin_code_bulk

import rego.v2

import data.connectors.copilot.requests
import data.connectors.copilot.tools

# METADATA
# title: Administration, code and bulk are denied
# description: By the tool's name; of a generic tool, by the path that it is told.
# labels:
#   policy: m365-admin-code-bulk
#   action: DENY
findings contains {"action": "DENY", "policy_id": "m365-admin-code-bulk", "reason": reason} if some reason in _reasons

_reasons contains "the tool administers the tenant, runs code, changes labels or moves data in bulk" if tools.administers

_reasons contains "the path belongs to administration, rules or rights" if "admin" in requests.kinds

_reasons contains "what the call is about cannot be read" if requests.unreadable
