# METADATA
# title: Mail addresses and domains
# description: >-
#   Who is inside the organisation. Only an address that can be read without doubt and whose
#   domain is exactly one of the organisation's counts as internal; everything else is external:
#   a sub-domain, a look-alike, letters beyond ASCII, relays (a%b@c, a!b@c), what is no string.
package lib.addresses

import rego.v2

# METADATA
# title: Parts
# description: >-
#   The parts of a list of addresses, separated by commas, semicolons or line breaks, each with
#   its display name removed. A part that is no address stays as it is. The set of one null for
#   what is no string, the empty set for a text without any part.
parts(text) := {_bare(trimmed) |
	some part in regex.split(`[,;\r\n]`, regex.replace(text, `"[^"@]*"\s*<`, "<"))
	trimmed := trim_space(part)
	trimmed != ""
} if {
	is_string(text)
} else := {null}

# A display name with an @ pretends to be an address: such a part is left whole, and is none.
_bare(part) := regex.replace(part, `^[^<>@]*<([^<>]*)>$`, "$1")

# METADATA
# title: Domain
# description: The domain of one plain address, in lower case; undefined for anything else.
domain(address) := split(folded, "@")[1] if {
	is_string(address)
	count(address) <= 254
	folded := lower(address)

	# lower() folds some letters beyond ASCII into it, as the Kelvin sign into k.
	regex.match(`^[\x21-\x7e]+$`, address)
	regex.match(`^[a-z0-9#$&'*+/=?^_{|}~.-]+@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$`, folded)
	not regex.match(`^\.|\.@|\.\.`, folded)
}

# METADATA
# title: Inside
# description: >-
#   Whether every address in a text is of one of `domains` (a set, as `usable` gives it). False for
#   a text without an address, and for what is no string.
inside(text, domains) if {
	found := parts(text)
	count(found) > 0
	every address in found {
		domain(address) in domains
	}
}

# METADATA
# title: External
# description: The parts of a text that are not surely internal; the set of one null for what is no string.
external(text, domains) := {part |
	some part in parts(text)
	not domain(part) in domains
}

# METADATA
# title: Usable domains
# description: >-
#   A list of the organisation's domains as a set, in lower case. Undefined when it is no list of
#   strings, and when one of them is a wildcard, is no domain, or is shared by strangers (a public
#   suffix, a mail provider): it would make the world internal.
usable(listed) := {lower(name) | some name in listed} if {
	is_array(listed)
	every name in listed {
		own(name)
	}
}

# METADATA
# title: Own
# description: Whether a text can be the domain of one organisation. False for what is no string.
own(name) if {
	is_string(name)
	count(name) <= 253
	regex.match(`^(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]$`, name)
	not regex.match(`^(?:ac|asn|co|com|edu|ed|gen|go|gob|gouv|gov|govt|id|in|ind|ltd|me|mil|ne|net|nhs|nom|or|org|plc|sch|web)\.[a-z]{2}$`, lower(name))
	not lower(name) in shared
}

# METADATA
# title: Shared domains
# description: Domains under which strangers have addresses; no organisation's own.
shared := {
	"aol.com", "azurewebsites.net", "cloudapp.net", "fastmail.com", "github.io", "gmail.com", "gmx.com",
	"gmx.de", "gmx.net", "googlemail.com", "herokuapp.com", "hotmail.com", "icloud.com", "live.com",
	"mail.com", "mail.ru", "me.com", "microsoft.com", "msn.com", "onmicrosoft.com", "outlook.com",
	"pages.dev", "proton.me", "protonmail.com", "qq.com", "salesforce.com", "service-now.com",
	"sharepoint.com", "web.de", "yahoo.com", "yandex.ru",
}
