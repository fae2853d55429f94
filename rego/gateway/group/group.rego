# METADATA
# title: Decisions in a group
# description: >-
#   Several questions in one request, {"calls": [{"id", "input"}]}: for each id what
#   data.gateway.decision says of its input, exactly as if it were asked alone.
package gateway.group

import rego.v2

# METADATA
# title: Decisions
# description: An object of decisions by id. One question with a fault leaves the whole undefined or an error.
# entrypoint: true
decisions := {call.id: decision |
	some call in input.calls
	decision := data.gateway.decision with input as call.input
}
