# METADATA
# title: Administration, scripts and bulk
# description: >-
#   An agent changes neither users nor rights nor scripts, runs none, and moves no data in bulk.
#   What table a call writes must be readable.
# schemas:
#   - input: schema.input
package connectors.servicenow.admin_script_bulk

import rego.v2

import data.connectors.servicenow.tables
import data.connectors.servicenow.tools
import data.lib.values

# METADATA
# title: Administration, scripts and bulk are denied
# description: By the tool's name, by the table that is written, and by scripts in a query.
# labels:
#   policy: sn-admin-script-bulk
#   action: DENY
findings contains {"action": "DENY", "policy_id": "sn-admin-script-bulk", "reason": reason} if some reason in _reasons

_reasons contains "the tool changes users, rights or scripts, runs scripts, or moves data in bulk" if tools.administers

_reasons contains sprintf("the call writes %v, which holds users, rights, settings or scripts", [concat(", ", sort(tables.administrative))]) if {
	_writes
	count(tables.administrative) > 0
}

_reasons contains "which table the call writes cannot be read" if {
	tools.writes_table
	tables.unreadable
}

# An encoded query such as user=javascript:gs.getUserID() runs on the instance.
_reasons contains "a query holds a script" if {
	some [path, text] in values.opened(input.arguments)
	is_string(text)
	regex.match(`(?i)javascript\s*:`, text)
	not values.key(path) in {"articlebody", "closenotes", "comment", "comments", "description", "shortdescription", "text", "worknotes"}
}

_reasons contains "the parameter admin_tables is no list of names" if {
	_writes
	not values.strings(input.server.params, ["admin_tables"], [])
}

_writes if tools.writes_table

_writes if tools.writes_incidents

_writes if tools.writes_content

_writes if tools.writes_changes
