# METADATA
# title: Which tables a call names
# description: >-
#   The tables that a call's arguments name, as a table or in a path such as
#   /api/now/table/incident, and what they hold. A name that cannot be read is told apart.
# schemas:
#   - input: schema.input
package connectors.servicenow.tables

import rego.v2

import data.lib.paths
import data.lib.values

# METADATA
# title: Named
# description: Tables that the call names, in lower case.
named contains lower(trim_space(name)) if {
	some name in _names
	is_string(name)
}

named contains name if {
	some text in _texts
	segments := paths.read(text).segments
	some place, "table" in segments
	name := segments[place + 1]
}

# METADATA
# title: Unreadable
# description: The call names no table, or one that is no name, or a path that is no table's.
unreadable if named == set()

unreadable if {
	some name in _names
	not _is_name(name)
}

unreadable if {
	some text in _texts
	not _is_table_path(text)
}

_is_name(name) if {
	is_string(name)
	regex.match(`^\s*[A-Za-z][A-Za-z0-9_]*\s*$`, name)
}

_is_table_path(text) if {
	segments := paths.read(text).segments
	some place, "table" in segments
	_is_name(segments[place + 1])
}

# METADATA
# title: Administrative
# description: >-
#   The tables among them that hold users, rights, settings or scripts: all of the platform's own
#   but a few for content, and those of the parameter admin_tables.
administrative contains name if {
	some name in named
	regex.match(`^(?:sys_|sysauto|sysevent|syslog|sysrule|oauth_|sn_aia_|ecc_|discovery_cred|v_|ts_|cmn_|ldap_|saml|sso_|user_criteria)`, name)
	not name in {"sys_attachment", "sys_journal_field", "sys_email_draft"}
	not _automates(name)
}

administrative contains name if {
	some name in named
	some further in values.strings(input.server.params, ["admin_tables"], [])
	name == lower(further)
}

# METADATA
# title: Approvals and automation
# description: The tables among them in which changes are approved, or flows and update sets live.
approving contains name if {
	some name in named
	_automates(name)
}

_automates(name) if regex.match(`^(?:sysapproval|wf_|sys_hub_|sys_update_set|sys_update_xml|sys_flow|sys_playbook)`, name)

# METADATA
# title: Changes
# description: The tables among them that hold change requests and their tasks.
changes contains name if {
	some name in named
	startswith(name, "change_")
}

# METADATA
# title: Incidents
# description: The tables among them that hold incidents and cases.
incidents contains name if {
	some name in named
	regex.match(`^incident|case$|^sn_customerservice_`, name)
}

# METADATA
# title: Content
# description: All others.
content contains name if {
	some name in named
	not name in ((administrative | approving) | (changes | incidents))
}

_names := values.named(input.arguments, {"classname", "sysclassname", "table", "tablename", "tables", "targettable"})

_texts := values.named(input.arguments, {"endpoint", "path", "resource", "resourcepath", "uri", "url"})
