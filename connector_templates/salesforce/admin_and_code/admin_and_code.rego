# METADATA
# title: Administration and code
# description: >-
#   An agent changes neither users nor rights nor code, and runs none: a poisoned document that
#   leads it to create a user with administrator rights is a known attack. What a writing call
#   names must be readable.
# schemas:
#   - input: schema.input
package connectors.salesforce.admin_and_code

import rego.v2

import data.connectors.salesforce.objects
import data.connectors.salesforce.tools
import data.lib.values

# METADATA
# title: Administration and code are denied
# description: By the tool's name, and by the objects that a writing call names.
# labels:
#   policy: sf-admin-and-code
#   action: DENY
findings contains {"action": "DENY", "policy_id": "sf-admin-and-code", "reason": reason} if some reason in _reasons

_reasons contains "the tool changes the org, its users or its code, or runs code" if tools.administers

_reasons contains "the tool carries out whatever operation it is told" if tools.calls_anything

_reasons contains "the call's operation cannot be read" if tools.unreadable_operation

_reasons contains sprintf("the call writes %v, which holds users, rights or code", [concat(", ", sort(objects.touched))]) if {
	tools.writes
	count(objects.touched) > 0
}

_reasons contains "which object the call writes cannot be read" if {
	tools.writes
	objects.unreadable
}

_reasons contains "which relationship the call follows cannot be read" if {
	tools.related
	objects.relationships == set()
}

_reasons contains "the parameter protected_objects is no list of names" if {
	tools.writes
	not values.strings(input.server.params, ["protected_objects"], [])
}
