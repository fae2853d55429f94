package connectors_test.copilot.calls

import rego.v2

import data.connectors.copilot.admin_code_bulk
import data.connectors.copilot.delete_or_unseen_recipient
import data.connectors.copilot.document_write
import data.connectors.copilot.external_sharing
import data.connectors.copilot.mail_write
import data.connectors.copilot.read
import data.connectors.copilot.teams_post

# An input with just what these policies read, in an organisation called corp.example.
call(name, arguments) := with_params(name, arguments, {"internal_domains": ["corp.example"]})

with_params(name, arguments, params) := {"tool": {"name": name}, "arguments": arguments, "server": {"params": params}}

# The policies that find something in a call.
found(document) := policies if policies := _found with input as document

# One rule, for what the policies have in common is then worked out once a call: each reference that `with` stands
# behind begins anew.
_found := {finding.policy_id | some findings in _listed; some finding in findings}

_listed := [
	read.findings, mail_write.findings, document_write.findings, teams_post.findings,
	delete_or_unseen_recipient.findings, external_sharing.findings, admin_code_bulk.findings,
]

# Whether one policy finds something in a call; the others are not asked, which would take most of the time.
finds(policy_id, name, arguments) if {
	policy := replace(trim_prefix(policy_id, "m365-"), "-", "_")
	some finding in data.connectors.copilot[policy].findings with input as call(name, arguments)
	finding.policy_id == policy_id
}
