package gateway

import rego.v2

import data.gateway.words

# METADATA
# title: Risk of one tool
# description: >-
#   {level, reasons} for input.tool: how much harm the tool can do, from its name, title,
#   description, argument names and annotations, and which word said so. What cannot be read is
#   CRITICAL.
# entrypoint: true
# schemas:
#   - input: schema.risk.definitions
risk := _assessed(object.get(_risk_input, "tool", null))

# METADATA
# title: Risk of many tools
# description: As `risk`, for input.tools, answered in the same order.
# entrypoint: true
# schemas:
#   - input: schema.risk.definitions
risks := [_assessed(tool) | some tool in input.tools]

_risk_input := input if is_object(input)

else := {}

_levels := ["CRITICAL", "HIGH", "MEDIUM", "LOW"]

_assessed(tool) := {"level": level, "reasons": reasons} if {
	is_string(tool.name)
	hits := _hits(tool)
	reasons := [hit | some level in _levels; some hit in sort(hits); hit.level == level]
	level := reasons[0].level
} else := {"level": "MEDIUM", "reasons": []} if {
	is_string(tool.name)
} else := {"level": "CRITICAL", "reasons": [{"word": "", "where": "definition", "level": "CRITICAL"}]}

_hits(tool) := ((named | _prose_hits(tool, named)) | _schema_hits(tool)) | _annotation_hits(tool) if {
	named := _name_hits("name", tool.name) | _name_hits("title", object.get(tool, "title", ""))
}

_name_hits(where, text) := ((_documented(where, split_words, words.documented_in_names) | _phrases(where, split_words)) | _further(where, split_words)) | _runs(where, split_words) if {
	split_words := _split(text)
}

# The name speaks first: the second list is asked about the prose only when the name says nothing.
_prose_hits(tool, named) := hits | _documented("description", split_words, words.further_in_prose) if {
	named == set()
	split_words := _split(object.get(tool, "description", ""))
	hits := _documented_prose(split_words)
} else := _documented_prose(_split(object.get(tool, "description", "")))

_documented_prose(split_words) := _documented("description", split_words, words.documented_in_prose) | _phrases("description", split_words)

_documented(where, split_words, by_level) := {{"word": word, "where": where, "level": level} |
	some level, listed in by_level
	some word in split_words
	word in listed
}

_phrases(where, split_words) := {{"word": phrase, "where": where, "level": level} |
	text := sprintf(" %s ", [concat(" ", split_words)])
	some phrase, level in words.phrases
	contains(text, sprintf(" %s ", [phrase]))
}

_further(where, split_words) := {{"word": word, "where": where, "level": _raised(level, split_words)} |
	some level, listed in words.further_in_names
	some place, word in split_words
	word in listed
	not _noun(split_words, place)
}

_noun(split_words, place) if {
	split_words[place] in words.nouns
	some earlier, word in split_words
	earlier < place
	word in words.documented_in_names.LOW
}

_raised(level, split_words) := "HIGH" if {
	level == "MEDIUM"
	some word in split_words
	word in words.sensitive
} else := level

_runs(where, split_words) := {{"word": sprintf("%s %s", [runner, what]), "where": where, "level": "CRITICAL"} |
	some runner in split_words
	runner in words.runners
	some what in split_words
	what in words.code
}

_schema_hits(tool) := {{"word": property, "where": "inputSchema", "level": level} |
	some property, _ in tool.inputSchema.properties
	is_string(property)
	some level in _property_levels(property)
}

_property_levels(property) := {level |
	some level, listed in words.properties
	some word in _split(property)
	word in listed
} | {level | level := words.whole_properties[lower(property)]}

# Annotations are the server's own claims: believed where they raise, ignored where they lower.
_annotation_hits(tool) := {hit |
	some [hint, value, level] in [["destructiveHint", true, "HIGH"], ["readOnlyHint", false, "MEDIUM"]]
	tool.annotations[hint] == value
	hit := {"word": hint, "where": "annotations", "level": level}
}

# sendMail, SendMail, send_mail, send-mail and send2mail are all send, mail; HTTPServer is http, server.
_split(text) := [lower(word) | some word in regex.find_n(`[A-Za-z]+`, apart, -1)] if {
	is_string(text)
	lower_upper := regex.replace(text, `([a-z])([A-Z])`, "$1 $2")
	apart := regex.replace(lower_upper, `([A-Z])([A-Z][a-z])`, "$1 $2")
} else := []
