# METADATA
# title: The decision
# description: >-
#   Combines what database rules, template policies and organisation policies find about one tool
#   call into one action. It always answers, and whatever it cannot understand it denies.
# schemas:
#   - input: schema.input
package gateway

import rego.v2

import data.gateway.document
import data.gateway.obligations
import data.gateway.organisation
import data.gateway.rules
import data.gateway.templates
import data.gateway.visibility

# METADATA
# title: Decision
# description: >-
#   {action, policy_ids, reasons, obligations}. Ids and reasons, sorted, are those of the findings
#   that decided; the obligations are those of every finding, combined.
# entrypoint: true
decision := {
	"action": rule.action,
	"policy_ids": [concat("", ["rule:", rule.id])],
	"reasons": [rule.reason],
	"obligations": [],
} if {
	# One rule and nothing else speaks: most calls, answered without a comparison. What follows
	# below gives the same answer, which a test holds it to.
	[rule] = input.rules
	_only_rules_can_speak
	document.readable(rule)
	rule.reason != ""
	document.routable
	organisation.findings == set()
} else := {
	"action": input.project.default_action,
	"policy_ids": ["gateway.default"],
	"reasons": [_default_reason],
	"obligations": [],
} if {
	input.rules == []
	_only_rules_can_speak
	document.whole
	organisation.findings == set()
} else := {
	"action": action,
	"policy_ids": sort({each[1] | some each in deciding}),
	"reasons": sort({each[2] | some each in deciding; each[2] != ""}),
	"obligations": [],
} if {
	# The organisation speaks beside the project's default, as plainly as most do.
	input.rules == []
	_only_rules_can_speak
	count(_plain_law) == count(organisation.findings)
	document.whole
	counted := _plain_law | {[input.project.default_action, "gateway.default", _default_reason]}
	action := _strictest({each[0] | some each in counted})
	deciding := {each | some each in counted; each[0] == action}
} else := {
	"action": action,
	"policy_ids": sort({each[1] | some each in deciding}),
	"reasons": sort({each[2] | some each in deciding; each[2] != ""}),
	"obligations": [],
} if {
	# A template speaks, as plainly as most do: with neither rules beside it nor obligations.
	input.rules == []
	_only_templates_can_speak
	_plain != set()
	count(_plain) == count(templates.findings)
	document.routable
	organisation.findings == set()
	action := _strictest({each[0] | some each in _plain})
	deciding := {each | some each in _plain; each[0] == action}
} else := compared

# METADATA
# title: Compared
# description: The decision by the long way, over every finding there is.
compared := {
	"action": _sole[0],
	"policy_ids": [_sole[1]],
	"reasons": _said(_sole[2]),
	"obligations": _obligations,
} if {
	_sole
} else := {
	"action": action,
	"policy_ids": sort({each[1] | some each in deciding}),
	"reasons": sort({each[2] | some each in deciding; each[2] != ""}),
	"obligations": _obligations,
} if {
	action := _action
	deciding := {each | some each in _counted; each[0] == action}
}

# No template, no doubtful agent, no unknown tool, nothing that hides any.
_only_rules_can_speak if {
	input.server.template == null
	input.tool.pin != "UNKNOWN"
	not input.agent.asserted
	not data.bundle.hides
}

_only_templates_can_speak if {
	input.server.overrides == []
	input.tool.pin != "UNKNOWN"
	not data.bundle.hides
}

# Findings of the template that have a reason and nothing else to say.
_plain contains [action, policy_id, reason] if {
	some {"action": action, "policy_id": policy_id, "reason": reason} in templates.findings
	is_string(reason)
}

# Findings of the organisation that count, and have a reason and nothing else to say.
_plain_law contains [action, policy_id, reason] if {
	some {"action": action, "policy_id": policy_id, "reason": reason} in organisation.findings
	action != "ALLOW"
	is_string(reason)
}

_default_reason := "the project's default: no rule and no template policy matches"

# Nearly every call has one finding that counts, and then there is nothing to compare.
_sole := finding if {
	count(_counted) == 1
	some finding in _counted
}

_said(reason) := [reason] if {
	reason != ""
} else := []

_action := _strictest({each[0] | some each in _counted})

_strictest(actions) := "DENY" if {
	"DENY" in actions
} else := "REQUIRE_APPROVAL" if {
	"REQUIRE_APPROVAL" in actions
} else := "LOG_ONLY" if {
	"LOG_ONLY" in actions
} else := "ALLOW" if {
	"ALLOW" in actions
} else := "DENY"

# What counts, as [action, policy_id, reason]. The base is the stricter of rules and template, the
# action the stricter of base and organisation: so the strictest of them all, and one set holds
# them. What may only tighten stays out of it where it is an ALLOW.

_counted contains [rule.action, concat("", ["rule:", rule.id]), rule.reason] if {
	some rule in rules.winners
}

_counted contains [rule.action, concat("", ["rule:", rule.id]), rule.reason] if {
	some rule in rules.tightening
}

_counted contains [finding.action, finding.policy_id, _reason(finding)] if {
	some finding in templates.findings
}

_counted contains [finding.action, finding.policy_id, _reason(finding)] if {
	some finding in organisation.findings
	finding.action != "ALLOW"
}

# A tool that lists leave out is denied when it is called all the same.
_counted contains [found.action, found.policy_id, found.reason] if {
	data.bundle.hides
	some found in visibility.hiding
	found.action != "ALLOW"
}

_counted contains [
	input.project.default_action,
	"gateway.default",
	_default_reason,
] if {
	_nothing_matches
	document.whole
}

_counted contains ["REQUIRE_APPROVAL", "gateway.unknown_tool", "no scan knows this tool"] if {
	input.tool.pin == "UNKNOWN"
}

_counted contains [
	"DENY",
	"gateway.input_incomplete",
	"the input document lacks a field or has one of the wrong type",
] if {
	not document.routable
}

_counted contains [
	"DENY",
	"gateway.input_incomplete",
	"the input document lacks a field or has one of the wrong type",
] if {
	not document.rules_readable
}

_counted contains [
	"DENY",
	"gateway.input_incomplete",
	"the input document lacks a field or has one of the wrong type",
] if {
	_nothing_matches
	not document.whole
}

_nothing_matches if {
	rules.winners == []
	templates.findings == set()
	not templates.missing
}

_counted contains [
	"DENY",
	"gateway.template_missing",
	"the server is bound to a template that no bundle holds",
] if {
	templates.missing
}

_counted contains [
	"DENY",
	"gateway.override_unreadable",
	"an override of this server has no readable policy, action or expiry",
] if {
	some _ in templates.unreadable
}

_counted contains [
	"DENY",
	"gateway.obligation_unknown",
	"a finding has an obligation that is unknown or lacks what its type needs",
] if {
	_policies_spoke
	some _ in obligations.unknown
}

_counted contains [
	"DENY",
	"gateway.no_common_approver",
	"the policies that ask for approval name no approver in common",
] if {
	_policies_spoke
	some {"type": "approvers", "names": []} in obligations.combined
}

# Only findings of policies bring obligations, and most calls have none.
_policies_spoke if templates.findings != set()

else if organisation.findings != set()

default _obligations := []

_obligations := obligations.combined if _policies_spoke

_reason(finding) := finding.reason if {
	is_string(finding.reason)
} else := "no reason given"
