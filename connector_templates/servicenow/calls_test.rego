package connectors_test.servicenow.calls

import rego.v2

import data.connectors.servicenow.admin_script_bulk
import data.connectors.servicenow.catalog_knowledge_write
import data.connectors.servicenow.change_approval_and_workflow
import data.connectors.servicenow.change_request
import data.connectors.servicenow.delete_block
import data.connectors.servicenow.incident_write
import data.connectors.servicenow.read

# An input with just what these policies read.
call(name, arguments) := with_params(name, arguments, {})

with_params(name, arguments, params) := {"tool": {"name": name}, "arguments": arguments, "server": {"params": params}}

# The policies that find something in a call.
found(name, arguments) := found_in(call(name, arguments))

found_in(document) := policies if policies := _found with input as document

# One rule, for what the policies have in common is then worked out once a call: each reference that `with` stands
# behind begins anew.
_found := {finding.policy_id | some findings in _listed; some finding in findings}

_listed := [
	read.findings, incident_write.findings, catalog_knowledge_write.findings, change_request.findings,
	change_approval_and_workflow.findings, delete_block.findings, admin_script_bulk.findings,
]

# Whether one policy finds something in a call; the others are not asked, which would take most of the time.
finds(policy_id, name, arguments) if finds_in(policy_id, call(name, arguments))

finds_in(policy_id, document) if {
	policy := replace(trim_prefix(policy_id, "sn-"), "-", "_")
	some finding in data.connectors.servicenow[policy].findings with input as document
	finding.policy_id == policy_id
}
