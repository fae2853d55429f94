# METADATA
# title: Paths
# description: >-
#   REST paths in one spelling: lower case, no double or trailing slashes, percent-encoding undone,
#   dot segments resolved, "users('x')" as users/x, a namespace such as "microsoft.graph." taken off.
package lib.paths

import rego.v2

# METADATA
# title: Read
# description: >-
#   {host, segments, query} of a path or URL: host "" for a mere path (two slashes begin a host, not
#   a path), segments without empty ones,
#   the query as sent. Undefined for what is no string and for what two servers could read
#   differently: broken or double percent-encoding, control characters, dots that climb too far,
#   a user in the address, another scheme than http and https.
read(text) := {
	"host": host,
	"segments": [_segment(part) | some part in split(regex.replace(flat, `\('?([^()']*)'?\)`, "/$1"), "/"); part != ""],
	"query": query,
} if {
	is_string(text)
	trimmed := trim_space(text)
	trimmed != ""
	not regex.match(`[\x00-\x1f\x7f]`, trimmed)
	[[_, authority, sent, query]] := regex.find_all_string_submatch_n(`^((?i:https?:)?//[^/?#\\]+)?([^?#]*)\??([^#]*)`, trimmed, 1)
	host := lower(regex.replace(authority, `^(?i:https?:)?//`, ""))
	not contains(host, "@")
	not regex.match(`^(?i:[a-z][a-z0-9+.-]*):`, sent)
	not regex.match(`%(?:[^0-9a-fA-F]|.[^0-9a-fA-F]|.?$)`, sent)
	decoded := urlquery.decode(replace(sent, "+", "%2B"))
	not regex.match(`%[0-9a-fA-F]{2}|[\x00-\x1f\x7f]`, decoded)
	flat := _resolved(replace(lower(decoded), `\`, "/"))
	not regex.match(`(?:^|/)\.\.(?:/|$)`, flat)
}

# Five rounds resolve five levels; what still climbs then is refused.
_resolved(path) := climb(climb(climb(climb(climb(regex.replace(sprintf("%s/", [path]), `/(?:\.?/)+`, "/"))))))

# METADATA
# title: Climb
# description: A path with the innermost "name/.." pairs taken out, once.
climb(path) := regex.replace(path, `(?:^|/)(?:[^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)/\.\./`, "/")

_segment(part) := regex.replace(part, `^(?:microsoft\.)?graph\.`, "")

# METADATA
# title: Under
# description: Whether a path that could be read has one of `names` (a set) as a segment.
under(path, names) if {
	some segment in path.segments
	segment in names
}

# METADATA
# title: Last
# description: The last segment of a path that could be read; "" when it has none.
last(path) := path.segments[count(path.segments) - 1] if {
	count(path.segments) > 0
} else := ""
