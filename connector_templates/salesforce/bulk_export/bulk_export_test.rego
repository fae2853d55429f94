package connectors_test.salesforce.bulk_export

import rego.v2

import data.connectors.salesforce.bulk_export
import data.connectors_test.salesforce.calls

denied(name, arguments) if {
	some found in bulk_export.findings with input as calls.call(name, arguments)
	found.action == "DENY"
}

passes(name, arguments) if bulk_export.findings == set() with input as calls.call(name, arguments)

test_the_first_example_passes if passes("soqlQuery", {"query": "SELECT Id FROM Account"})

test_ordinary_queries_pass if {
	every query in [
		"SELECT Id FROM Account LIMIT 2000", "select id from account limit 5 offset 1995",
		`SELECT Id FROM Account WHERE Name = 'LIMIT 100000 FIELDS(ALL) -- O\'Brien'`,
		"SELECT Id, (SELECT Id FROM Contacts LIMIT 5) FROM Account WHERE OwnerId IN (SELECT Id FROM User)",
		"SELECT COUNT() FROM Account",
	] {
		passes("soqlQuery", {"query": query})
		passes("query_records", {"soql": query})
		passes("run_soql_query", {"query": query, "usernameOrAlias": "me", "useToolingApi": false})
	}
	passes("find", {"search": "FIND {O'Brien} IN ALL FIELDS RETURNING Account(Id LIMIT 10)"})
	passes("find", {"search": "O'Brien"})
	passes("search_records", {"query": "O'Brien -- the limit 5000"})
	passes("query_records", {"objectName": "Account", "fields": ["Id", "Owner.Name"], "whereClause": "Name LIKE 'A%'", "limit": 200, "offset": null})
	passes("getRelatedRecords", {"sobject-name": "Account", "id": "001", "relationship-path": "Contacts"})
}

bulk_queries := [
	"SELECT Id FROM Account LIMIT 2001", "SELECT Id FROM Account LIMIT 100000", "select id from account\nlimit\t100000",
	"SELECT FIELDS(ALL) FROM Account LIMIT 200", "select fields ( all ) from account", "SELECT FIELDS(STANDARD) FROM Account",
	"SELECT fields(custom) FROM Account", "SELECT Id, (SELECT FIELDS(ALL) FROM Contacts) FROM Account",
	"SELECT Id, (SELECT Id FROM Contacts LIMIT 100000) FROM Account LIMIT 1", "SELECT FIELDS/**/(ALL) FROM Account",
	"SELECT Id FROM Account LIMIT 1/**/00000", "SELECT Id FROM Account -- LIMIT 5", "SELECT Id FROM Account LIMIT :n",
	"SELECT Id FROM Account LIMIT 1e9", "SELECT Id FROM Account LIMIT 2000 OFFSET 2000", "SELECT Id FROM Account OFFSET 2001",
	"SELECT Id FROM Account OFFSET :n", `SELECT Id FROM Account WHERE Name = 'a\\' LIMIT 9999 --'`, "SELECT Id FROM Account WHERE Name = 'a",
	"SELECT Id\u00a0FROM Account", "SELECT Id FROM Account; DELETE FROM Account", "SELECT Id FROM Account;", "FIND {x} RETURNING Account(Id LIMIT 9000)",
]

# Each tool that may be asked, with one query; the gateway's own tests ask each of them each.
asked(query) := [
	["soqlQuery", {"query": query}], ["query_records", {"soql": query}],
	["unheard_of", {"anything": {"deep": [query]}, "soql": query}],
]

test_bulk_queries_are_denied_in_every_spelling if {
	every place, query in bulk_queries {
		denied("soqlQuery", {"query": query})
		[name, arguments] := asked(query)[1 + (place % 2)]
		denied(name, arguments)
	}
}

test_bulk_tools_are_denied if {
	every name in ["bulk_query", "export_records", "data_dump", "download_all_contacts", "composite_request", "queryAll", "query_more", "batchGet"] {
		denied(name, {})
	}
}

test_what_is_asked_for_in_other_arguments_counts if {
	every arguments in [
		{"limit": 2001}, {"limit": "100000"}, {"limit": "all"}, {"limit": -1}, {"limit": [5]}, {"limit": true}, {"maxRecords": 1e9},
		{"page-size": 5000}, {"offset": 2001}, {"limit": 2000, "offset": 5}, {"options": {"Limit": 5000}}, {"options": `{"limit": 5000}`},
		{"offset": "x"}, {"fetchAll": true}, {"queryAll": "yes"}, {"nextRecordsUrl": "/services/data/v60.0/query/01g-2000"},
		{"fields": ["FIELDS(ALL)"]}, {"fields": "FIELDS(STANDARD)"}, {"whereClause": "Name != null LIMIT 100000"}, {"orderBy": "Id LIMIT 9000"},
	] {
		denied("query_records", object.union({"objectName": "Account"}, arguments))
	}
	passes("query_records", {"objectName": "Account", "fetchAll": false, "limit": "200"})
}

test_a_query_of_another_shape_is_denied if {
	every arguments in [{}, {"query": 5}, {"query": null}, {"query": ["x'"]}, {"query": {"a": 1}}, {"q": true}, {"query": "DELETE FROM x"}] {
		denied("soqlQuery", arguments)
	}
	passes("soqlQuery", {"query": ["SELECT Id FROM Account"]})
}

test_writes_are_not_looked_into if {
	passes("createSobjectRecord", {"sobject-name": "Note", "body": {"Title": "it's", "limit": 50000, "query": "SELECT FIELDS(ALL)"}})
}

test_the_limit_is_a_parameter if {
	arguments := {"query": "SELECT Id FROM Account LIMIT 50"}
	bulk_export.findings == set() with input as calls.with_params("soqlQuery", arguments, {"bulk_row_limit": 50})
	every limit in [49, 0, -1, 100000, 2000.5, "2000", true, [2000], {}] {
		some found in bulk_export.findings with input as calls.with_params("soqlQuery", arguments, {"bulk_row_limit": limit})
		found.action == "DENY"
	}
}
