# METADATA
# title: Queries
# description: >-
#   What a SOQL, SOSL or SQL text asks for, read token by token: a keyword inside a literal or a
#   comment never counts, one outside always does, whatever its case and the whitespace around it.
#   Each function answers for any value. Where `readable` is false nothing else in the answer may
#   be believed; where `comments` is true two servers may read the text differently.
#
#   The answer: `readable`; `comments`; `statement`, the first word or "UNKNOWN"; `verbs`, every
#   statement verb, so that {"SELECT"} is a mere reading; `tables`, in capitals; `limits` and
#   `offsets`, a number each, null for one that is no plain number; `fields`, what stands in
#   FIELDS(…), "*" for all columns; `selects`, how many SELECTs there are, nested ones included.
package lib.queries

import rego.v2

# METADATA
# title: SOQL
# description: Reads SOQL, where a backslash escapes inside '…' and no other quotes exist.
soql(text) := _inspected(text, `'(?:[^'\\]|\\[\s\S])*'`, _plain)

# METADATA
# title: SOSL
# description: As SOQL, but the words to search for stand in {…}.
sosl(text) := _inspected(text, `\{(?:[^}\\]|\\[\s\S])*\}|'(?:[^'\\]|\\[\s\S])*'`, _plain)

# METADATA
# title: SQL
# description: >-
#   Reads SQL. What dialects read differently is not readable: a backslash, "#" or "$", and the
#   comments that MySQL executes.
sql(text) := _inspected(text, `'(?:[^'\\]|'')*'|"(?:[^"\\]|"")*"|\x60[^\x60\\]*\x60|\[[^\]\\]*\]`, _quoting)

_plain := `^[\w.]+$|^''$|^[(),=<>!+*/:;-]$`

_quoting := `^[\w.]+$|^''$|^[(),=<>!+*/:;%|&^~@?-]$|^".*"$|^\x60.*\x60$|^\[.*\]$`

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

_nothing := {
	"readable": false,
	"comments": false,
	"statement": "UNKNOWN",
	"verbs": set(),
	"tables": set(),
	"limits": [],
	"offsets": [],
	"fields": set(),
	"selects": 0,
}

_inspected(text, literals, allowed) := {
	"readable": _readable(tokens, allowed),
	"comments": count(tokens) < count(found),
	"statement": _at(tokens, 0, "UNKNOWN"),
	"verbs": {token | some token in tokens; token in _verbs},
	"tables": _tables(tokens),
	"limits": _limits(tokens),
	"offsets": [_number(tokens, place + 1) | some place, "OFFSET" in tokens],
	"fields": _fields(tokens),
	"selects": count([token | some "SELECT" in tokens; token := 1]),
} if {
	is_string(text)
	pattern := sprintf(`(?:%s)|--[^\n]*|/\*[\s\S]*?\*/|/\*|[\w.]+|[^\s]`, [literals])
	found := regex.find_n(pattern, text, -1)
	tokens := [_token(match) | some match in found; not _comment(match)]
} else := _nothing

_comment(match) if startswith(match, "--")

# What MySQL executes, /*! … */, stays a token, which is in no language.
_comment(match) if regex.match(`^/\*(?:[^!][\s\S]*)?\*/$`, match)

_token(match) := "''" if {
	regex.match(`^['{][\s\S]*['}]$`, match)
	count(match) > 1
} else := upper(match)

_readable(tokens, allowed) if {
	count(tokens) > 0
	every token in tokens {
		regex.match(allowed, token)
	}
} else := false

_at(tokens, place, fallback) := tokens[place] if {
	place >= 0
} else := fallback

# In SQL a quoted name may be longer than a word: what it quotes is the name.
_tables(tokens) := {trim(tokens[place], "\"`[]") |
	some start, word in tokens
	word in {"FROM", "JOIN", "INTO", "TABLE", "UPDATE"}
	end := min({place | some place, stop in tokens; place > start; stop in _clauses} | {count(tokens)})
	some place, _ in tokens
	place > start
	place < end
	_names_a_table(tokens, start, place)
} | _returned(tokens)

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

_limits(tokens) := array.flatten([
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
])

_number(tokens, place) := to_number(tokens[place]) if {
	regex.match(`^[0-9]{1,15}$`, tokens[place])
} else := null

_fields(tokens) := {_at(tokens, place + 2, "") |
	some place, "FIELDS" in tokens
	_at(tokens, place + 1, "") == "("
} | {"*" |
	some place, "*" in tokens
	before := _at(tokens, place - 1, "")
	regex.match(`^SELECT$|^DISTINCT$|^ALL$|^,$|\.$`, before)
}
