# METADATA
# title: Other methods
# description: >-
#   What the organisation's policies say of a message that is no tool call: a client's request, its
#   answer to a server, or a server's request of the client. Allowed unless a policy finds otherwise.
# schemas:
#   - input: schema.method.input
package gateway.methods

import rego.v2

import data.lib.findings as finding

# METADATA
# title: Findings
# description: What the policies of the message's method find.
findings contains finding.checked(member, name) if {
	some name
	found := data.policies.method[input.target.method][name].findings
	some member in finding.members(found)
}

findings contains {
	"action": "DENY",
	"policy_id": "gateway.input_incomplete",
	"reason": "the input document lacks a field or has one of the wrong type",
} if {
	not _whole
}

_whole if {
	is_string(input.target.method)
	is_object(input.target.params)
	input.target.from in {"client", "server"}
	is_string(input.project.slug)
	is_string(input.server.slug)
	is_string(input.context.time)
}

# METADATA
# title: Decision
# description: >-
#   {action, policy_ids, reasons, obligations}, as of a tool call. Nobody approves such a message,
#   so where a policy asks for approval it is denied.
decision := {
	"action": _action,
	"policy_ids": sort({found.policy_id | some found in _deciding}),
	"reasons": sort({found.reason | some found in _deciding; is_string(found.reason)}),
	"obligations": [],
}

_deciding := {found | some found in findings; _binds(found.action) == _action}

_binds(action) := "DENY" if action == "REQUIRE_APPROVAL"

else := action

default _action := "ALLOW"

_action := "DENY" if {
	some found in findings
	_binds(found.action) == "DENY"
} else := "LOG_ONLY" if {
	some found in findings
	found.action == "LOG_ONLY"
}
