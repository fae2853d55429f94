# METADATA
# title: Tools that a list leaves out
# description: >-
#   One question for a page of tools, {"shared": …, "tools": [{"tool", "rules"}]}: which of them this
#   caller may surely not call. `shared` is the rest of the input document.
package gateway.listing

import rego.v2

import data.gateway.rules
import data.gateway.visibility

# METADATA
# title: Hidden
# description: >-
#   Names of the tools that a database rule denies or a `hidden` set names. Findings have no say:
#   they are about arguments, and a list has none.
# entrypoint: true
hidden contains one.tool.name if {
	some one in input.tools
	_hidden with input as object.union(input.shared, {"tool": one.tool, "rules": one.rules})
}

_hidden if {
	some rule in rules.winners
	rule.action == "DENY"
}

_hidden if {
	some rule in rules.tightening
	rule.action == "DENY"
}

_hidden if {
	data.bundle.hides
	some found in visibility.hiding
	found.action == "DENY"
}
