# METADATA
# title: Database rules
# description: >-
#   Which of the matching database rules count. The most specific tier that has a rule decides;
#   within it every rule counts, and the router takes the strictest.
# schemas:
#   - input: schema.input
package gateway.rules

import rego.v2

# METADATA
# title: Winners
# description: >-
#   The rules of the most specific tier, none when no rule matches. From the most specific: exact
#   tool with agent, exact tool, pattern with agent, pattern, agent, server, project; and within
#   pattern, agent and both, those with a server before those without.
winners := _most_specific([rule | some rule in input.rules; rule.agent_id == null]) if {
	input.agent.asserted
} else := _most_specific(input.rules)

# METADATA
# title: Tightening
# description: >-
#   Of an agent that the caller merely named (asserted): the rules bound to it. They may tighten
#   what the other rules say but never loosen it, so they stand beside the winners. One that a
#   more specific rule outranks does not count.
tightening contains rule if {
	input.agent.asserted
	some rule in input.rules
	rule.agent_id != null
	rule.action != "ALLOW"
	rule in _most_specific(array.concat(winners, [rule]))
}

# A tool belongs to one server and needs no pattern: beside a tool_id neither counts.
_most_specific(rules) := rules if {
	count(rules) < 2
} else := bound if {
	bound := [rule | some rule in rules; rule.tool_id != null; rule.agent_id != null]
	bound != []
} else := exact if {
	exact := [rule | some rule in rules; rule.tool_id != null]
	exact != []
} else := narrowest if {
	# arrays compare element by element, false before true
	keys := [key |
		some rule in rules
		key := [rule.tool_pattern != null, rule.agent_id != null, rule.server_id != null]
	]
	highest := max(keys)
	narrowest := [rule | some place, rule in rules; keys[place] == highest]
}
