# METADATA
# title: Approvals and workflows
# description: An agent neither approves its own change nor switches production automation by itself.
# schemas:
#   - input: schema.input
package connectors.servicenow.change_approval_and_workflow

import rego.v2

import data.connectors.servicenow.tables
import data.connectors.servicenow.tools

import data.lib.values

# METADATA
# title: Approvals and workflows
# description: By the tool's name; of a tool for any table, by the table that it is told.
# labels:
#   policy: sn-change-approval-and-workflow
#   action: REQUIRE_APPROVAL
findings contains {
	"action": "REQUIRE_APPROVAL",
	"policy_id": "sn-change-approval-and-workflow",
	"reason": "an agent approves no change and switches no automation by itself",
} if {
	_matches
}

_matches if tools.approves

_matches if {
	tools.writes_table
	some _ in tables.approving
}

# A change may also be approved by writing its fields.
_matches if {
	_writes_a_change
	some [path, value] in values.opened(input.arguments)
	_decides(values.key(path), value)
}

_writes_a_change if tools.writes_changes

_writes_a_change if {
	tools.writes_table
	some _ in tables.changes
}

_decides("approval", value) if not value in {null, "", "not requested", "not_requested", "requested"}

_decides("approvalstate", value) if not value in {null, ""}

# Authorised, scheduled, implemented, by number or by word.
_decides("state", value) if not lower(sprintf("%v", [value])) in {"", "-5", "-4", "-3", "4", "assess", "authorize", "canceled", "cancelled", "draft", "new", "null"}
