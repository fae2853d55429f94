# METADATA
# title: What a Salesforce tool does
# description: >-
#   Kinds of tools by their names, in the hosted servers, the DX server and community servers. A
#   tool may be of several kinds. Each kind is one look at all forms of the name, without
#   separators and in lower case.
# schemas:
#   - input: schema.input
package connectors.salesforce.tools

import rego.v2

import data.lib.tool_names
import data.lib.values

# METADATA
# title: Reads
# description: Tools that read records, schema or metadata.
reads if {
	some name in tool_names.plain
	_reading[name]
}

# Servers put their own name before this one; with a verb in its place it is another tool.
reads if {
	regex.match(`(?m)^(?:[a-z0-9]+[_\- ]?)*query[_\- ]?records$`, tool_names.lines)
	not regex.match(_doing, tool_names.lines)
}

_reading := {
	"describe", "describeobject", "discover", "find", "getobjectschema", "getrecord",
	"getrelatedrecords", "getuserinfo", "listobjects", "listrecentsobjectrecords", "queryrecords",
	"retrievemetadata", "runsoqlquery", "runsoslsearch", "searchrecords", "soqlquery",
}

_doing := `(?m)(?:^|[_\- ])(?:add|apply|approv|archiv|assign|call|chang|clear|clos|convert|copy|creat|deliver|do|drop|edit|email|exec|forward|grant|import|insert|invok|lock|mail|mov|notif|patch|post|publish|push|put|reset|restor|revok|run|save|send|set|shar|submit|sync|transfer|updat|upload|upsert|writ)[a-z0-9_\- ]*query[_\- ]?records$`

# METADATA
# title: SOQL
# description: Tools whose arguments must hold a SOQL query.
soql if {
	some name in tool_names.plain
	name in {"runsoqlquery", "soqlquery"}
}

# METADATA
# title: Searches
# description: Tools that search for words, so that not every text is a query.
searches if regex.match(`(?m)^find$|search|sosl`, tool_names.squeezed)

# METADATA
# title: Creates
# description: Tools that create records.
creates if regex.match(`(?m)(?:create|insert)(?:sobject)?records?$`, tool_names.squeezed)

creates if _operation in {"create", "insert"}

# METADATA
# title: Updates
# description: Tools that change records.
updates if regex.match(`(?m)(?:update|upsert)(?:sobject)?records?$|updaterelated.*record`, tool_names.squeezed)

updates if _operation in {"update", "upsert"}

# METADATA
# title: Deletes
# description: Tools that delete or merge records, whatever they call it.
deletes if regex.match(`(?m)delete(?:[^d]|$)|remove|purge|erase|destroy|wipe|truncate|merge`, tool_names.squeezed)

deletes if _operation in {"delete", "harddelete", "remove", "destroy", "purge", "merge"}

# METADATA
# title: DML
# description: Tools whose argument `operation` says what they do.
dml if contains(tool_names.squeezed, "dml")

# METADATA
# title: Unreadable operation
# description: A DML tool's operation is missing, or is none that the kinds above know.
unreadable_operation if {
	dml
	not _known_operation
}

_known_operation if creates

_known_operation if updates

_known_operation if deletes

# Two operations in one call are as unreadable as none.
_operation := values.fold(operation) if {
	dml
	named := values.named(input.arguments, {"operation", "operationtype", "dmloperation"})
	count(named) == 1
	some operation in named
}

# METADATA
# title: Writes
# description: Tools of any of the kinds that change records.
writes if creates

writes if updates

writes if deletes

writes if dml

# METADATA
# title: Related
# description: Tools that reach a record through a relationship of another.
related if regex.match(`(?m)(?:update|delete)related`, tool_names.squeezed)

# METADATA
# title: Bulk
# description: Tools that move many records at once.
bulk if regex.match(`bulk|export|dump|downloadall|composite|batch|queryall|querymore`, tool_names.squeezed)

# METADATA
# title: Administers
# description: Tools that change the org, its users or its code, or run code.
administers if {
	regex.match(
		`(?m)permissionset|^deletescratchorg|deploy|deleteorg|scratchorg|orgsnapshot|openorg|resumetooloperation|(?:promote|commit|resolve|merge)devopscenter|tooling|apexexecute|(?:execute|run|write|create|update)(?:anonymous)?apex(?:class|code|trigger|anonymous)?$|anonymous|restful|apexrest|manage(?:object|field|debuglog|user|profile|permission)|(?:create|update|delete|deactivate|activate|freeze|unfreeze|reset|assign|manage)(?:sobject)?(?:user|profile|role|permission|password)s?$`,
		tool_names.squeezed,
	)
}

# METADATA
# title: Calls anything
# description: >-
#   Tools that carry out any operation they are told, as Headless 360 does: their name says
#   nothing about what happens.
calls_anything if {
	regex.match(
		`(?m)^(?:salesforce|sf|headless360|headless)?(?:call|invoke|execute|run|dispatch|perform|do|request|rest|http|api|graphql)(?:operation|action|tool|api|request|endpoint|rest|command|function|method|capability|query|mutation|call)?s?$`,
		tool_names.squeezed,
	)
}
