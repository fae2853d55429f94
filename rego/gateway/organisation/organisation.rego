# METADATA
# title: Organisation policies
# description: >-
#   The findings of the organisation's own Rego along the routes of the call. They are the law and
#   only tighten. Each route is a path, so its cost follows the policies that match, not those
#   that exist.
# schemas:
#   - input: schema.input
package gateway.organisation

import rego.v2

import data.lib.findings as finding

# METADATA
# title: Findings
# description: What the organisation's policies find; an ALLOW among them changes nothing.
findings contains finding.checked(member, name) if {
	some name
	found := data.policies.all[name].findings
	some member in finding.members(found)
}

findings contains finding.checked(member, name) if {
	some name
	found := data.policies.project[input.project.slug][name].findings
	some member in finding.members(found)
}

findings contains finding.checked(member, name) if {
	some name
	found := data.policies.server[input.server.slug][name].findings
	some member in finding.members(found)
}

findings contains finding.checked(member, name) if {
	some name
	found := data.policies.agent[input.agent.name][name].findings
	some member in finding.members(found)
}

findings contains finding.checked(member, name) if {
	some name
	found := data.policies.tool[input.tool.name][name].findings
	some member in finding.members(found)
}
