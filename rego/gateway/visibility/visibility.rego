# METADATA
# title: Hidden tools
# description: >-
#   What the policies' `hidden` sets say of a tool. They are asked when tools are listed, before
#   there are arguments, and again with each call; both times about the same document, so that a
#   tool that is hidden is denied, whatever the arguments are.
# schemas:
#   - input: schema.input
package gateway.visibility

import rego.v2

import data.gateway.templates
import data.lib.findings as finding

# METADATA
# title: Hiding
# description: >-
#   A finding for each member of a `hidden` set: DENY, or what an override of a template makes of it.
hiding contains found if {
	is_object(input)
	some found in data.gateway.visibility.members with input as _listed
}

# Of a call only what lists and calls have in common.
_listed := object.union(
	object.remove(input, ["arguments", "call"]),
	{"call": {
		"source": object.get(input, ["call", "source"], null),
		"method": "tools/list",
		"phase": "list",
		"era": object.get(input, ["call", "era"], null),
	}},
)

# METADATA
# title: Members
# description: The members of every `hidden` set on the tool's routes, as findings.
members contains templates.overridden(finding.hiding(member, name)) if {
	some name
	found := data.connectors[input.server.template][name].hidden
	some member in finding.members(found)
}

members contains finding.hiding(member, name) if {
	some name
	found := data.policies.all[name].hidden
	some member in finding.members(found)
}

members contains finding.hiding(member, name) if {
	some name
	found := data.policies.project[input.project.slug][name].hidden
	some member in finding.members(found)
}

members contains finding.hiding(member, name) if {
	some name
	found := data.policies.server[input.server.slug][name].hidden
	some member in finding.members(found)
}

members contains finding.hiding(member, name) if {
	some name
	found := data.policies.agent[input.agent.name][name].hidden
	some member in finding.members(found)
}

members contains finding.hiding(member, name) if {
	some name
	found := data.policies.tool[input.tool.name][name].hidden
	some member in finding.members(found)
}
