# METADATA
# title: Typed getters
# description: >-
#   Reads arguments and parameters without trusting their types. A getter answers its fallback only
#   where nothing was said (missing or null) and is undefined where something else than asked for
#   stands there, so `not values.number(…)` finds what must be refused.
package lib.values

import rego.v2

# METADATA
# title: String
# description: The string at `path` (an array of keys); undefined when another type stands there.
string(document, path, fallback) := value if {
	value := _said(document, path, fallback)
	is_string(value)
}

# METADATA
# title: Number
# description: The number at `path`; undefined when another type stands there, "5" and true too.
number(document, path, fallback) := value if {
	value := _said(document, path, fallback)
	is_number(value)
}

# METADATA
# title: Integer
# description: The whole number at `path` that is between `least` and `most`; undefined otherwise.
integer(document, path, fallback, least, most) := value if {
	value := number(document, path, fallback)
	value == floor(value)
	value >= least
	value <= most
}

# METADATA
# title: Boolean
# description: >-
#   "yes" or "no" for true or false at `path`; undefined when another type stands there. A word,
#   because `not false` and `not undefined` read alike.
boolean(document, path, fallback) := {true: "yes", false: "no"}[_said(document, path, fallback)]

# METADATA
# title: Strings
# description: The set of strings in the array at `path`; undefined if it is none or has another type in it.
strings(document, path, fallback) := {value | some value in listed} if {
	listed := _said(document, path, fallback)
	is_array(listed)
	every value in listed {
		is_string(value)
	}
}

_said(document, path, fallback) := value if {
	value := object.get(document, path, null)
	value != null
} else := fallback

# METADATA
# title: Fold
# description: >-
#   A key or name as a careless reader sees it: lower case, ASCII letters and digits only.
#   "sobject-name", "sObject_Name" and " SOBJECTNAME" are alike. Undefined for what is no string.
fold(text) := regex.replace(lower(text), `[^a-z0-9]`, "") if is_string(text)

# METADATA
# title: Opened
# description: >-
#   Every [path, value] in a document, as `walk` gives them, and those inside strings that hold a
#   JSON object or array, two strings deep: some servers parse such a string before they act.
opened(document) := {[path, value] | walk(document, [path, value])} if {
	not _may_hide(document)
} else := (direct | once) | _inside(once) if {
	direct := {[path, value] | walk(document, [path, value])}
	once := _inside(direct)
}

# Some string in it begins with a bracket, as JSON text writes strings: one look, whatever its size.
_may_hide(document) if regex.match(`"(?:\\[a-z]|\\u[0-9a-f]{4}|\s)*[\[{]`, json.marshal(document))

_inside(pairs) := {[array.concat(path, below), value] |
	some [path, text] in pairs
	is_string(text)
	regex.match(`^\s*[\[{]`, text)
	json.is_valid(text)
	walk(json.unmarshal(text), [below, value])
}

# METADATA
# title: Key
# description: >-
#   The folded key that a [path, value] of `opened` belongs to: the last string of its path, so
#   that a list's members belong to the list. "" at the top.
key(path) := own if {
	own := fold(path[count(path) - 1])
} else := folded[count(folded) - 1] if {
	folded := [fold(step) | some step in path; is_string(step)]
	count(folded) > 0
} else := ""

# METADATA
# title: Named
# description: >-
#   Every value, of any type, at any depth and inside JSON strings, whose folded key is in `keys`.
named(document, keys) := {value |
	some [key, value] in _owned(document)
	key in keys
} if {
	count(_keys(document) & keys) > 0
} else := set()

_keys(document) := {key | some [key, _] in _owned(document)}

_owned(document) := {[fold(path[count(path) - 1]), value] | some [path, value] in opened(document)}
