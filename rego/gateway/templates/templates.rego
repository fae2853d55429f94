# METADATA
# title: Template policies
# description: >-
#   The findings of the connector template that the server is bound to, after the server's
#   overrides. Only an override loosens a template.
# schemas:
#   - input: schema.input
package gateway.templates

import rego.v2

import data.lib.findings as finding

# METADATA
# title: Findings
# description: What the template's policies find, each with the action that counts.
findings contains result if {
	some name
	found := data.connectors[input.server.template][name].findings
	some member in finding.members(found)
	result := overridden(finding.checked(member, name))
}

# METADATA
# title: Missing
# description: The server is bound to a template that no bundle holds.
missing if {
	input.server.template != null
	not _present
}

# One policy's findings are enough: reading the whole package would evaluate its every rule.
_present if data.connectors[input.server.template][_].findings

# METADATA
# title: Unreadable overrides
# description: Overrides whose policy, action or expiry cannot be read; nobody knows what was meant.
unreadable contains override if {
	some override in input.server.overrides
	not _readable(override)
}

_readable(override) if {
	is_string(override.policy_id)
	finding.strictness[override.action]
	time.parse_rfc3339_ns(override.expires_at)
}

# METADATA
# title: Overridden
# description: A finding with the action that counts after the server's overrides of its policy.
overridden(found) := found if {
	input.server.overrides == []
} else := object.union(found, {"action": _strictest(_counting(found))})

# An override for the calling agent outranks one for everybody; among equals the strictest counts.
# For an agent that the caller merely named its own may tighten what holds for everybody.
_counting(found) := own if {
	not input.agent.asserted
	own := _actions(found, "own")
	count(own) > 0
} else := general | own if {
	general := _actions(found, "general")
	count(general) > 0
	own := _actions(found, "own")
} else := {found.action} | _actions(found, "own")

_actions(found, reach) := {override.action |
	some override in _active[reach]
	override.policy_id == found.policy_id
}

_active.own contains override if {
	some override in input.server.overrides
	override.agent_id == input.agent.id
	_in_force(override)
}

_active.general contains override if {
	some override in input.server.overrides
	override.agent_id == null
	_in_force(override)
}

_in_force(override) if {
	time.parse_rfc3339_ns(input.context.time) < time.parse_rfc3339_ns(override.expires_at)
}

_strictest(actions) := action if {
	some action in actions
	every other in actions {
		finding.strictness[action] >= finding.strictness[other]
	}
}
