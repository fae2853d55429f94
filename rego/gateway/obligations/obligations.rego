# METADATA
# title: Obligations
# description: >-
#   What must be done besides the action, and how the obligations of several findings combine: to
#   the stricter, always. The highest quorum, the approvers that all of them name, the highest
#   cost and every argument that holds one, every redaction; a block makes redaction pointless.
package gateway.obligations

import rego.v2

import data.gateway.organisation
import data.gateway.templates

# METADATA
# title: Combined
# description: At most one obligation of each type, sorted by type; unknown ones are left out.
combined := [] if {
	_all == set()
} else := [obligation |
	some type in _types
	obligation := _combined(type, [each | some each in _accepted; each.type == type])
]

# METADATA
# title: Unknown
# description: Obligations of no known type, or without what their type needs.
unknown contains obligation if {
	some obligation in _all
	not _known(obligation)
}

_all contains obligation if {
	some finding in templates.findings
	some obligation in _listed(finding.obligations)
}

_all contains obligation if {
	some finding in organisation.findings
	some obligation in _listed(finding.obligations)
}

# Obligations in anything but a list or a set count as one unknown: they must not vanish.
_listed(given) := given if {
	type_name(given) in {"array", "set"}
} else := [null]

_accepted contains obligation if {
	some obligation in _all
	_known(obligation)
}

_types contains obligation.type if some obligation in _accepted

_known(obligation) if {
	obligation.type == "approvers"
	_strings(obligation.names)
}

_known({"type": "block"})

_known(obligation) if {
	obligation.type == "cost"
	is_number(obligation.amount)
	obligation.amount >= 0
	not "argument" in object.keys(obligation)
}

# An argument that the call then lacks refuses it: a rule that reads it would only say nothing.
_known(obligation) if {
	obligation.type == "cost"
	is_string(obligation.argument)
	obligation.argument != ""
	not "amount" in object.keys(obligation)
}

_known(obligation) if {
	obligation.type == "quorum"
	is_number(obligation.count)
	obligation.count >= 1
	obligation.count == floor(obligation.count)
}

_known({"type": "reason"})

_known(obligation) if {
	obligation.type == "redact"
	_strings(obligation.fields)
}

_strings(values) if {
	type_name(values) in {"array", "set"}
	count(values) > 0
	every value in values {
		is_string(value)
	}
}

_combined("approvers", same) := {
	"type": "approvers",
	"names": sort(intersection({names | some each in same; names := {name | some name in each.names}})),
}

_combined("block", _) := {"type": "block"}

_combined("cost", same) := object.union(
	{"type": "cost", "amount": max([object.get(each, "amount", 0) | some each in same])},
	{"arguments": names | names := sort({each.argument | some each in same}); count(names) > 0},
)

_combined("quorum", same) := {"type": "quorum", "count": max([each.count | some each in same])}

_combined("reason", _) := {"type": "reason"}

_combined("redact", same) := {"type": "redact", "fields": sort({field | some each in same; some field in each.fields})} if {
	not "block" in _types
}
