# METADATA
# title: Queries
# description: >-
#   What a SOQL, SOSL or SQL text asks for, read token by token: a keyword inside a literal or a
#   comment never counts, one outside always does, whatever its case and the whitespace around it.
#   `soql`, `sosl` and `sql` answer {readable, comments, tokens} for any value; the other functions
#   take that answer. Where `readable` is false nothing else may be believed; where `comments` is
#   true two servers may read the text differently.
package lib.queries

import rego.v2

# METADATA
# title: SOQL
# description: >-
#   Reads SOQL, where a backslash escapes inside '…' and no other quotes exist. It knows no ";": who
#   takes one takes a second statement too.
soql(text) := _read(text, `'(?:[^'\\]|\\[\s\S])*'`, `[(),=<>!+*/:-]`)

# METADATA
# title: SOSL
# description: As SOQL, but the words to search for stand in {…}.
sosl(text) := _read(text, `\{(?:[^}\\]|\\[\s\S])*\}|'(?:[^'\\]|\\[\s\S])*'`, `[(),=<>!+*/:-]`)

# METADATA
# title: SQL
# description: >-
#   Reads SQL. What dialects read differently is not readable: a backslash, "#" or "$", and the
#   comments that MySQL executes.
sql(text) := _read(
	text,
	`'(?:[^'\\]|'')*'|"(?:[^"\\]|"")*"|\x60[^\x60\\]*\x60|\[[^\]\\]*\]`,
	`[(),=<>!+*/:;%|&^~@?-]`,
)

_read(text, literals, signs) := {"readable": _readable(kept, literals, signs), "comments": count(kept) < count(found), "tokens": tokens} if {
	is_string(text)
	found := regex.find_n(sprintf(`%s|--[^\n]*|/\*[\s\S]*?\*/|/\*|[\w.]+|[^\s]`, [literals]), text, -1)
	kept := [match | some match in found; not _comment(match)]
	tokens := [upper(match) | some match in kept]
} else := {"readable": false, "comments": false, "tokens": []}

_comment(match) if startswith(match, "--")

# What MySQL executes, /*! … */, stays a token, which is in no language.
_comment(match) if {
	startswith(match, "/*")
	regex.match(`^/\*(?:[^!][\s\S]*)?\*/$`, match)
}

# Asked before upper(), which turns some letters beyond ASCII into ASCII ones.
_readable(tokens, literals, signs) if {
	count(tokens) > 0
	regex.match(sprintf(`^(?:(?:%s|[\w.]+|%s)\n)+$`, [literals, signs]), concat("\n", array.concat(tokens, [""])))
} else := false

# METADATA
# title: Statement
# description: The first word, in capitals; "UNKNOWN" for a text without one.
statement(query) := _at(query.tokens, 0, "UNKNOWN")

# METADATA
# title: Verbs
# description: >-
#   Every statement verb, wherever it stands, so that {"SELECT"} is a mere reading. INTO is one:
#   SELECT … INTO writes.
verbs(query) := {token |
	some token in query.tokens
	_verbs[token]
}

# METADATA
# title: Selects
# description: How many SELECTs there are, nested ones included.
selects(query) := count([1 | some "SELECT" in query.tokens])

# METADATA
# title: Tables
# description: The names after FROM, JOIN, INTO, TABLE, UPDATE and RETURNING, in capitals, without quotes.
tables(query) := {trim(tokens[place], "\"`[]") |
	tokens := query.tokens
	some start, word in tokens
	word in {"FROM", "JOIN", "INTO", "TABLE", "UPDATE"}
	end := min({place | some place, stop in tokens; place > start; _clauses[stop]} | {count(tokens)})
	some place, _ in tokens
	place > start
	place < end
	_names_a_table(tokens, start, place)
} | _returned(query.tokens)

# METADATA
# title: Limits
# description: >-
#   The numbers after LIMIT (both of "LIMIT 5, 9"), TOP and FETCH FIRST, in subqueries too; null
#   for one that is no plain number.
limits(query) := array.flatten([
	[_number(tokens, place + 1) | some place, "LIMIT" in tokens],
	[_number(tokens, place + 3) |
		some place, "LIMIT" in tokens
		_at(tokens, place + 2, "") == ","
	],
	[_number(tokens, place + 1) |
		some place, "TOP" in tokens
		_at(tokens, place - 1, "") in {"SELECT", "DISTINCT", "ALL"}
		_at(tokens, place + 1, "") != ","
	],
	[_number(tokens, place + 2) |
		some place, "FETCH" in tokens
		_at(tokens, place + 1, "") in {"FIRST", "NEXT"}
	],
]) if {
	tokens := query.tokens
}

# METADATA
# title: Offsets
# description: The numbers after OFFSET; null for one that is no plain number.
offsets(query) := [_number(query.tokens, place + 1) | some place, "OFFSET" in query.tokens]

# METADATA
# title: Fields
# description: What stands first in each FIELDS(…), and "*" for all columns of a table.
fields(query) := {_at(tokens, place + 2, "") |
	some place, "FIELDS" in tokens
	_at(tokens, place + 1, "") == "("
} | {"*" |
	some place, "*" in tokens
	before := _at(tokens, place - 1, "")
	regex.match(`^$|^SELECT$|^DISTINCT$|^ALL$|^,$|\.$`, before)
} if {
	tokens := query.tokens
}

_verbs := {
	"ALTER", "ATTACH", "CALL", "COPY", "CREATE", "DELETE", "DO", "DROP", "EXEC", "EXECUTE", "FIND",
	"GRANT", "INSERT", "INTO", "LOAD", "LOCK", "MERGE", "PRAGMA", "RENAME", "REPLACE", "REVOKE", "SELECT",
	"SET", "TRUNCATE", "UPDATE", "UPSERT", "VACUUM",
}

_clauses := {
	"(", ")", ";", "CROSS", "FETCH", "FOR", "FROM", "FULL", "GROUP", "HAVING", "INNER", "JOIN", "LEFT",
	"LIMIT", "NATURAL", "OFFSET", "ON", "ORDER", "RETURNING", "RIGHT", "SELECT", "SET", "UNION", "USING",
	"VALUES", "WHERE", "WITH",
}

_at(tokens, place, fallback) := tokens[place] if {
	place >= 0
} else := fallback

_names_a_table(tokens, start, place) if {
	place == start + 1
	regex.match("^[\\w.]+$|^[\"`\\[]", tokens[place])
}

_names_a_table(tokens, start, place) if {
	place > start + 1
	tokens[place - 1] == ","
}

# RETURNING Account(Id, Name LIMIT 5), Contact: the names outside the parentheses.
_returned(tokens) := {tokens[place] |
	some start, "RETURNING" in tokens
	some place, _ in tokens
	place > start
	tokens[place - 1] in {"RETURNING", ","}
	between := array.slice(tokens, start, place)
	count([token | some token in between; token == "("]) == count([token | some token in between; token == ")"])
}

_number(tokens, place) := to_number(tokens[place]) if {
	regex.match(`^[0-9]{1,15}$`, tokens[place])
} else := null
