# METADATA
# title: What a ServiceNow tool does
# description: >-
#   Kinds of tools by their names, in the MCP Server Console, the CMDB server and community
#   servers. Customers name their own tools, so a kind goes by the words of a name; a tool may be of
#   several kinds.
# schemas:
#   - input: schema.input
package connectors.servicenow.tools

import rego.v2

import data.lib.tool_names
import data.lib.values

# METADATA
# title: Reads
# description: Tools that list, get, look up or summarise.
reads if {
	regex.match(
		`(?m)^(?:list|get|lookup)_|_summarization$|^email_recommendation$|^cmdb search$|^cmdb_search$|^get_similarci_classes|risk[_ ]explanation|^problem[_ ]investigator`,
		tool_names.lines,
	)
	not _http
}

# METADATA
# title: Writes incidents
# description: Tools that write incidents and cases.
writes_incidents if {
	regex.match(
		`(?m)^(?:create|update|resolve|close|reopen|assign)_incident|^add_(?:comment|work_notes?)$|^(?:create|update|resolve|close|reopen|escalate)_\w*case`,
		tool_names.lines,
	)
}

# METADATA
# title: Writes content
# description: Tools that write the catalogue, knowledge, agile work and configuration items.
writes_content if {
	regex.match(
		`(?m)^(?:create|update)_catalog|^move_catalog_items|^(?:create|update|publish)_article|^create_knowledge_base|^create_category|^(?:create|update)_(?:story|epic|scrum_task|project)|^create[ _]ci\b`,
		tool_names.lines,
	)
}

# METADATA
# title: Writes changes
# description: Tools that draft change requests.
writes_changes if regex.match(`(?m)^(?:create|update)_change_request|^add_change_task|^submit_change_for_approval`, tool_names.lines)

# METADATA
# title: Approves or automates
# description: Tools that approve changes, or change and switch automation.
approves if {
	regex.match(
		`(?m)^(?:approve|reject)_|^(?:create|update|activate|deactivate|publish)_(?:workflow|flow|subflow|playbook)|^(?:add|update|reorder)_workflow_activit|^(?:create|update|commit|publish)_changeset|^add_file_to_changeset|(?:flow|playbook)[_ ]generation`,
		tool_names.lines,
	)
}

# METADATA
# title: Deletes
# description: Tools that delete, remove or purge.
deletes if regex.match(`(?m)^(?:delete|remove|purge|erase|truncate|destroy)|(?:delete|remove)$|_(?:delete|remove)_|purge`, tool_names.lines)

deletes if _http_method == "DELETE"

# METADATA
# title: Administers
# description: Tools that change users, groups and rights, run scripts, or move data in bulk.
administers if {
	regex.match(
		`(?m)(?:^|_)(?:create|update|add|assign|grant|set|reset|elevate)_?(?:user|group|role|acl|password|propert)|user_?criteria|code[_ ]?assist|import_?set|export|bulk|(?:execute|run|eval)\w*(?:script|code|javascript)`,
		tool_names.lines,
	)
}

administers if {
	regex.match(`scriptinclude|backgroundscript|businessrule|clientscript|uipolic|fixscript|scheduledjob|uiaction`, tool_names.squeezed)
	not reads
}

# METADATA
# title: Writes a table
# description: >-
#   Tools that write whatever table, or send whatever request, their arguments name: the name says
#   nothing about what is written.
writes_table if regex.match(`(?m)^(?:create|insert|update|upsert|patch|modify|set)_(?:table_)?(?:record|row|table)s?$|^(?:table|record)_(?:create|insert|update|upsert|write)$`, tool_names.lines)

writes_table if {
	_http
	not _http_method in {"GET", "HEAD"}
}

# METADATA
# title: Requests
# description: Tools that send whatever request their arguments say, whose method must be readable.
requests if _http

# METADATA
# title: Method
# description: The one HTTP method that a call's arguments name, in capitals; undefined otherwise.
method := _http_method

_http if regex.match(`(?m)^(?:\w+_)?(?:rest|http|api|table_api|rest_api|api_call|rest_call|web_?service)(?:_(?:call|request|message|api|invoke|execute))?$|^(?:call|invoke|execute|send)_(?:rest|http|api|table|request)`, tool_names.lines)

_http_method := upper(trim_space(method)) if {
	named := values.named(input.arguments, {"httpmethod", "method", "requestmethod", "verb"})
	count(named) == 1
	some method in named
	is_string(method)
}
