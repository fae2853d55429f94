# METADATA
# title: Names of tools
# description: >-
#   Gateways and clients put a prefix before a tool's name and some servers a suffix after it. A
#   pattern is tried on the whole name and on what is left without them, in lower case.
# schemas:
#   - input: schema.input
package lib.tool_names

import rego.v2

# METADATA
# title: Forms
# description: >-
#   The forms of a name: all of it and the part after the last "__", "___", ".", "/" or ":", each
#   also without "_work_iq". Lower case, every run of whitespace one space. The empty set for what is no string.
forms(name) := {whole, tail, trim_suffix(whole, "_work_iq"), trim_suffix(tail, "_work_iq")} - {""} if {
	is_string(name)
	whole := trim_space(regex.replace(lower(name), `\s+`, " "))
	tail := trim_space(regex.replace(whole, `^.*(?:__|[./:])`, ""))
} else := set()

# METADATA
# title: Matches
# description: >-
#   Whether a glob ("*" any text, "?" one character, "{a,b}" either) matches a form of the name,
#   case ignored. False for what is no string. Each glob costs a match: for many, see `lines`.
matches(name, globs) if {
	some pattern in globs
	some form in forms(name)
	glob.match(lower(pattern), null, form)
}

# METADATA
# title: Called
# description: The forms of the called tool's name; none for a name that is no string, which the router denies.
called := forms(input.tool.name)

# METADATA
# title: Lines
# description: What is `called`, a line each, for one regex.match with (?m)^…$ in place of many globs.
lines := concat("\n", called)

# METADATA
# title: Squeezed
# description: >-
#   `lines` without "_", "-" and spaces: send_mail, Send-Mail and sendMail are one. For what
#   refuses, and for exact names.
squeezed := regex.replace(lines, `[_\- ]`, "")

# METADATA
# title: Plain
# description: The lines of `squeezed`, as a set.
plain := {name | some name in split(squeezed, "\n")}
