# METADATA
# title: Responses
# description: >-
#   What the organisation's policies ask of one message that a server sends: to withhold it, to
#   blacken parts of it, to label it. Whatever cannot be understood withholds it. A message of which
#   nobody knows which tool's call it answers is seen by the policies of all tools.
# schemas:
#   - input: schema.response.input
package gateway.responses

import rego.v2

# METADATA
# title: Answer
# description: >-
#   {block, pointers, replacements, labels, policy_ids, reasons}. Pointers (RFC 6901, from `body`;
#   `*` is every member) name what the gateway blackens; replacements are what the patterns found,
#   each with its path and its new text.
answer := {
	"block": _block,
	"pointers": sort(_pointers),
	"replacements": _replacements,
	"labels": sort({label | some {"type": "label", "label": label} in _accepted}),
	"policy_ids": sort({id | some finding in _findings; id := _id(finding)}),
	"reasons": sort({reason | some finding in _findings; reason := finding.reason; is_string(reason)}),
}

# A withheld message needs no patterns, which are the costly part.
_replacements := [] if {
	_block
} else := _found

default _block := false

_block if not _readable

_block if {
	some finding in _findings
	not _understood(finding)
}

_block if {"type": "block"} in _accepted

# What stands in a name can be left out by no redaction.
_block if {
	_patterns != set()
	some [_, value] in _nodes
	is_object(value)
	some name, _ in value
	regex.match(_pattern, name)
}

_readable if {
	is_string(input.project.slug)
	is_string(input.server.slug)
	input.kind in {"result", "error", "notification", "request"}
	"body" in object.keys(input)
	"tool" in object.keys(input)
}

_findings contains member if {
	some name
	found := data.policies.response.all[name].findings
	some member in _members(found)
}

_findings contains member if {
	some name
	found := data.policies.response.project[input.project.slug][name].findings
	some member in _members(found)
}

_findings contains member if {
	some name
	found := data.policies.response.server[input.server.slug][name].findings
	some member in _members(found)
}

_findings contains member if {
	some name
	found := data.policies.response.agent[input.agent.name][name].findings
	some member in _members(found)
}

_findings contains member if {
	some name
	found := data.policies.response.tool[input.tool.name][name].findings
	some member in _members(found)
}

_findings contains member if {
	input.tool == null
	some tool, name
	found := data.policies.response.tool[tool][name].findings
	some member in _members(found)
}

# A string would have no members, and vanish.
_members(findings) := findings if {
	is_set(findings)
} else := {null}

_understood(finding) if {
	is_string(finding.policy_id)
	type_name(finding.obligations) in {"array", "set"}
	count(finding.obligations) > 0
	every obligation in finding.obligations {
		_known(obligation)
	}
}

_known({"type": "block"})

_known(obligation) if {
	obligation.type == "label"
	is_string(obligation.label)
}

_known(obligation) if {
	obligation.type == "redact"
	object.keys(obligation) - {"type", "pointers", "patterns"} == set()
	pointers := object.get(obligation, "pointers", [])
	patterns := object.get(obligation, "patterns", [])
	_strings(pointers)
	_strings(patterns)
	count(pointers) + count(patterns) > 0
	every pattern in patterns {
		regex.is_valid(pattern)
	}
	every pointer in pointers {
		startswith(pointer, "/")
	}
}

_strings(values) if {
	type_name(values) in {"array", "set"}
	every value in values {
		is_string(value)
	}
}

_id(finding) := finding.policy_id if {
	is_string(finding.policy_id)
} else := "gateway.malformed_finding"

_accepted contains obligation if {
	some finding in _findings
	_understood(finding)
	some obligation in finding.obligations
}

_pointers contains pointer if {
	some obligation in _accepted
	obligation.type == "redact"
	some pointer in object.get(obligation, "pointers", [])
}

_patterns contains pattern if {
	some obligation in _accepted
	obligation.type == "redact"
	some pattern in object.get(obligation, "patterns", [])
}

_pattern := concat("|", [sprintf("(?:%s)", [pattern]) | some pattern in _patterns])

_nodes contains [path, value] if walk(input.body, [path, value])

_found := [{"path": path, "text": regex.replace(text, _pattern, "[redacted]")} |
	_patterns != set()
	some [path, value] in _nodes
	text := _text(value)
	regex.match(_pattern, text)
]

_text(value) := value if {
	is_string(value)
} else := json.marshal(value) if {
	is_number(value)
}
