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
#   also without "_work_iq". Lower case, every run of whitespace one space. The empty set for what
#   is no string.
forms(name) := {form |
	some each in [whole, regex.replace(whole, `^.*(?:__|[./:])`, "")]
	some form in [each, trim_suffix(each, "_work_iq")]
	form != ""
} if {
	whole := lower(trim_space(regex.replace(name, `\s+`, " ")))
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
# title: Lines
# description: >-
#   The forms of the called tool's name, a line each, for one regex.match with (?m)^…$ in place of
#   many globs. Empty for a name that is no string, which the router denies.
lines := concat("\n", forms(input.tool.name))

# METADATA
# title: Squeezed
# description: >-
#   As `lines`, without "_", "-" and spaces: send_mail, Send-Mail and sendMail are one. For what
#   refuses; what allows should look at `lines`.
squeezed := regex.replace(lines, `[_\- ]`, "")
