# METADATA
# title: Decisions in a group
# description: >-
#   Several questions in one request: for each id what data.gateway.decision says of its input,
#   exactly as if it were asked alone. {"calls": [{"id", "input"}]}, or, where several inputs have
#   members in common, {"shared": [members], "calls": [{"id", "shared": place, "own": members}]}.
package gateway.group

import rego.v2

# METADATA
# title: Decisions
# description: An object of decisions by id. One question with a fault leaves the whole undefined or an error.
# entrypoint: true
decisions := {call.id: decision |
	some call in input.calls
	question := _question(call)
	decision := data.gateway.decision with input as question
}

_question(call) := call.input

_question(call) := object.union(input.shared[call.shared], call.own)
