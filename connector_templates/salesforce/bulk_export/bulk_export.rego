# METADATA
# title: Bulk export
# description: >-
#   Records leave a few at a time or not at all. A query without LIMIT passes, since Salesforce's
#   own page bounds it; what asks for more rows than `bulk_row_limit`, for all fields, or for later
#   pages does not. A query that cannot be read does not either.
# schemas:
#   - input: schema.input
package connectors.salesforce.bulk_export

import rego.v2

import data.connectors.salesforce.tools
import data.lib.amounts
import data.lib.queries
import data.lib.values

# METADATA
# title: Bulk export is denied
# description: By the tool's name, and by what a tool that does not write is asked for.
# labels:
#   policy: sf-bulk-export
#   action: DENY
findings contains {"action": "DENY", "policy_id": "sf-bulk-export", "reason": reason} if some reason in _reasons

_reasons contains "the tool moves many records at once" if tools.bulk

_reasons contains "the parameter bulk_row_limit is no whole number from 1 to 10000" if {
	not tools.writes
	not _row_limit
}

_reasons contains "the call has no SOQL query" if {
	tools.soql
	not _has_query
}

_reasons contains "a query cannot be read" if {
	some query in _queries
	not query.readable
}

# SOQL has none, so nobody knows what a tool makes of it.
_reasons contains "a query has a comment" if {
	some query in _queries
	query.comments
}

_reasons contains "a query asks for all fields" if {
	some query in _queries
	queries.fields(query) != set()
}

_reasons contains "a query's LIMIT or OFFSET is no number" if {
	some query in _queries
	null in array.concat(queries.limits(query), queries.offsets(query))
}

_reasons contains "the call asks for too many rows" if {
	some query in _queries
	some limit in queries.limits(query)
	is_number(limit)
	limit + max([start | some start in array.concat([0], queries.offsets(query)); is_number(start)]) > _row_limit
}

_reasons contains "the call asks for rows beyond the limit" if {
	some query in _queries
	some offset in queries.offsets(query)
	is_number(offset)
	offset > _row_limit
}

_reasons contains "the call asks for too many rows" if {
	some ["count", asked] in _numbers
	offsets := {amounts.amount(offset) | some ["offset", offset] in _numbers}
	amounts.amount(asked) + max(offsets | {0}) > _row_limit
}

_reasons contains "the call asks for rows beyond the limit" if {
	some ["offset", offset] in _numbers
	amounts.amount(offset) > _row_limit
}

_reasons contains "the call's number of rows cannot be read" if {
	some [kind, value] in _numbers
	kind in {"count", "offset"}
	value != null
	not amounts.amount(value)
}

_reasons contains "the call asks for all rows or for a later page" if {
	some ["all", value] in _numbers
	not value in {false, null, ""}
}

_row_limit := values.integer(input.server.params, ["bulk_row_limit"], 2000, 1, 10000)

# What each of these arguments says, folded names to kinds.
_kinds := {
	"allrows": "all", "autofetch": "all", "autopaginate": "all", "batchsize": "count",
	"fetchall": "all", "limit": "count", "maxfetch": "count", "maxrecords": "count",
	"maxresults": "count", "maxrows": "count", "nextrecordsurl": "all", "offset": "offset",
	"pagesize": "count", "queryall": "all", "querylocator": "all", "rowlimit": "count",
	"skip": "offset", "startrow": "offset", "take": "count", "top": "count",
}

_numbers contains [_kinds[values.key(path)], value] if some [path, value] in _pairs

# A record's own texts are no queries: calls that write are not looked into.
_pairs := values.opened(input.arguments) if {
	not tools.writes
} else := set()

_has_query if {
	some query in _queries
	queries.statement(query) == "SELECT"
}

_queries contains _read(value) if {
	some [path, value] in _pairs
	not type_name(value) in {"array", "null", "object"}
	_is_query(values.key(path), value)
}

_read(text) := queries.sosl(text) if {
	is_string(text)
	regex.match(`^(?i:\s*find\b)`, text)
} else := queries.soql(text)

_is_query(key, _) if _query_keys[key]

_is_query(key, _) if {
	key in {"q", "query", "queries", "querystring", "statement"}
	not tools.searches
}

_is_query(_, value) if {
	is_string(value)
	regex.match(`^(?i:[\s(]*select\b|\s*find\s*\{)`, value)
}

_query_keys := {
	"columns", "condition", "conditions", "fieldlist", "fieldnames", "fields", "filter", "filters",
	"groupby", "having", "orderby", "soql", "soqlquery", "sql", "where", "whereclause",
}
