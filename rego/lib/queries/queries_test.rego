package lib.queries_test

import rego.v2

import data.lib.queries

everything(query) := {
	"readable": query.readable,
	"comments": query.comments,
	"statement": queries.statement(query),
	"verbs": queries.verbs(query),
	"tables": queries.tables(query),
	"limits": queries.limits(query),
	"offsets": queries.offsets(query),
	"fields": queries.fields(query),
	"selects": queries.selects(query),
}

read(text) := everything(queries.soql(text))

search(text) := everything(queries.sosl(text))

sql(text) := everything(queries.sql(text))

test_a_plain_query_is_read if {
	read("SELECT Id FROM Account") == {
		"readable": true,
		"comments": false,
		"statement": "SELECT",
		"verbs": {"SELECT"},
		"tables": {"ACCOUNT"},
		"limits": [],
		"offsets": [],
		"fields": set(),
		"selects": 1,
	}
}

test_case_and_whitespace_do_not_matter if {
	every text in [
		"select id from account limit 5 offset 7",
		"SeLeCt\n\tId\rFROM\fAccount\n\n LiMiT\t\n5 OFFSET\n7",
		"SELECT Id FROM Account LIMIT 5OFFSET 7 OFFSET 7 LIMIT 5",
	] {
		5 in read(text).limits
		7 in read(text).offsets
	}
}

test_a_keyword_in_a_literal_never_counts if {
	every text in [
		`SELECT Id FROM Account WHERE Name = 'x LIMIT 9'`,
		`SELECT Id FROM Account WHERE Name = 'O\'Brien LIMIT 9'`,
		`SELECT Id FROM Account WHERE Name = '\\' AND Site = 'LIMIT 9'`,
		`SELECT Id FROM Account WHERE Name = '' AND Site = 'FIELDS(ALL) -- /* LIMIT 9'`,
	] {
		found := read(text)
		found.readable
		found.limits == []
		found.fields == set()
		not found.comments
	}
}

test_a_keyword_outside_a_literal_always_counts if {
	every text in [
		`SELECT Id FROM Account WHERE Name = 'x'LIMIT 9`,
		`SELECT Id FROM Account WHERE Name = '\'' LIMIT 9`,
		`SELECT Id FROM Account WHERE Name = '\\' LIMIT 9 OFFSET 1`,
		`SELECT Id, (SELECT Id FROM Contacts LIMIT 9) FROM Account`,
		"SELECT Id FROM Account/**/LIMIT/* 'a */9 -- '",
	] {
		found := read(text)
		found.readable
		found.limits == [9]
	}
}

test_a_comment_is_seen_and_what_is_in_it_does_not_count if {
	every text in ["SELECT Id FROM Account -- LIMIT 9", "SELECT /* LIMIT 9 */ Id FROM Account", "--\nSELECT Id FROM Account"] {
		found := read(text)
		found.comments
		found.limits == []
		found.statement == "SELECT"
	}
}

test_what_is_no_query_is_not_readable if {
	every text in [
		"", "SELECT 'a", `SELECT "Id" FROM Account`, "SELECT Id FROM Account /* x", "ＳELECT Id FROM Account",
		"SELECT Id\u00a0FROM Account", "a\u0000b", "SELECT `Id`", "SELECT Id # x", 5, null, ["SELECT"], {}, true,
	] {
		read(text).readable == false
		search(text).readable == false
	}
	read(5).statement == "UNKNOWN"
	read("").statement == "UNKNOWN"
}

test_a_limit_that_is_no_plain_number_is_null if {
	every text in ["LIMIT :x", "LIMIT", "LIMIT 1e9", "LIMIT 1.5", "LIMIT 'a'", "LIMIT 1234567890123456", "LIMIT ALL"] {
		read(text).limits == [null]
	}
	read("SELECT Limit__c, Account.Limit FROM Account").limits == []
}

test_fields_are_found_in_every_spelling if {
	every text in ["SELECT FIELDS(ALL) FROM A", "select fields\n( all ) from a", "SELECT (SELECT Fields(All) FROM B) FROM A"] {
		read(text).fields == {"ALL"}
	}
	read("SELECT FIELDS(STANDARD), FIELDS(CUSTOM) FROM A").fields == {"STANDARD", "CUSTOM"}
	read("SELECT FIELDS(").fields == {""}
	read("SELECT Fields__c, fields FROM A").fields == set()
}

test_nested_selects_and_their_tables_are_counted if {
	found := read("SELECT Id, (SELECT Id FROM Contacts) FROM Account a, a.Owner o WHERE Id IN (SELECT AccountId FROM Case)")
	found.selects == 3
	found.tables == {"CONTACTS", "ACCOUNT", "A.OWNER", "CASE"}
}

test_a_search_has_its_words_in_braces if {
	found := search(`FIND {O'Brien LIMIT 9 \} "x"} IN ALL FIELDS RETURNING Account(Id, Name LIMIT 5), Contact`)
	found.readable
	found.statement == "FIND"
	found.limits == [5]
	found.tables == {"ACCOUNT", "CONTACT"}
	not search("FIND {x").readable
}

test_sql_limits_in_all_dialects if {
	sql("SELECT * FROM a LIMIT 3, 9").limits == [3, 9]
	sql("SELECT TOP 5 x FROM a").limits == [5]
	sql("SELECT DISTINCT TOP (5) x FROM a").limits == [null]
	sql("SELECT top, x FROM a").limits == []
	sql("SELECT x FROM a OFFSET 2 ROWS FETCH NEXT 4 ROWS ONLY").limits == [4]
	sql("SELECT x FROM a OFFSET 2 ROWS FETCH FIRST 4 ROWS ONLY").offsets == [2]
}

test_sql_columns_and_tables if {
	sql("SELECT * FROM a").fields == {"*"}
	sql("SELECT a.* FROM a").fields == {"*"}
	sql("*").fields == {"*"}
	sql("SELECT COUNT(*) FROM a").fields == set()
	sql("SELECT x FROM \"a b\", [c] JOIN `d` ON a = d WHERE x IN (SELECT y FROM e)").tables == {"A B", "C", "D", "E"}
	sql("UPDATE a SET x = 1").tables == {"A"}
	sql("SELECT x FROM (SELECT y FROM b) c").tables == {"B"}
}

test_sql_verbs_are_found_wherever_they_stand if {
	sql("SELECT 'DELETE' FROM a -- DROP").verbs == {"SELECT"}
	sql("WITH x AS (DELETE FROM a RETURNING *) SELECT * FROM x").verbs == {"DELETE", "SELECT"}
	sql("SELECT 1; drop/**/table a").verbs == {"DROP", "SELECT"}
	sql("SELECT 'it''s' INTO b FROM a").verbs == {"INTO", "SELECT"}
}

test_letters_beyond_ascii_become_no_keyword if {
	not read("\u017felect Id FROM Account").readable
	read("SELECT Id FROM Account WHERE Name = '\u017f'").readable
}

test_sql_that_dialects_read_differently_is_not_readable if {
	every text in [
		`SELECT '\' OR 1 = 1 --'`, "SELECT 1 # x", "SELECT $$x$$", "SELECT /*! 1 */ 2", "SELECT 'a", "SELECT \"a",
		"SELECT `a", "SELECT é", 5, null,
	] {
		sql(text).readable == false
	}
	sql("SELECT \"a''b\", 'c\"d' FROM x").readable
}
