# METADATA
# title: Findings
# description: >-
#   What a finding is, and how what a policy wrote is made safe to combine. A finding that cannot
#   be understood becomes a DENY: dropping it would let the call pass.
package lib.findings

import rego.v2

# METADATA
# title: Strictness
# description: The four actions in their order; the higher number wins.
strictness := {
	"ALLOW": 0,
	"LOG_ONLY": 1,
	"REQUIRE_APPROVAL": 2,
	"DENY": 3,
}

# METADATA
# title: Members
# description: >-
#   What stands in a package's `findings`. Anything but a set has no members to iterate over (a
#   string would vanish silently), so it counts as one malformed finding.
members(findings) := findings if is_set(findings)

else := {null}

# METADATA
# title: Checked finding
# description: >-
#   The finding itself when it is well formed, otherwise a DENY that says what is wrong;
#   `policy` is the last part of the package's name.
checked(finding, policy) := finding if {
	strictness[finding.action]
	is_string(finding.policy_id)
} else := {
	"action": "DENY",
	"policy_id": finding.policy_id,
	"reason": sprintf("the finding of package %v has an unknown action", [policy]),
} if {
	is_string(finding.policy_id)
} else := {
	"action": "DENY",
	"policy_id": "gateway.malformed_finding",
	"reason": sprintf("package %v has a finding without a policy_id, or findings that are no set", [policy]),
}

# METADATA
# title: Hiding
# description: >-
#   The finding that a member of a package's `hidden` set stands for. Whatever the member is, it
#   hides: `policy_id` and `reason` are taken from it where it has them.
hiding(member, policy) := {
	"action": "DENY",
	"policy_id": member.policy_id,
	"reason": _said(member),
} if {
	is_string(member.policy_id)
} else := {
	"action": "DENY",
	"policy_id": policy,
	"reason": _said(member),
}

_said(member) := member.reason if {
	is_string(member.reason)
} else := "the policy hides this tool"
