# METADATA
# title: Clock
# description: >-
#   Windows of time on input.context.time, the one clock that policies have. Offsets are minutes
#   from UTC: names of zones would depend on the machine's tables, and a decision can be re-run.
# schemas:
#   - input: schema.input
package lib.clock

import rego.v2

# METADATA
# title: Now
# description: >-
#   The instant of the call in nanoseconds since 1970; undefined when input.context.time is not
#   RFC 3339, and then nothing below holds.
now := time.parse_rfc3339_ns(input.context.time) if {
	regex.match(
		`^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)$`,
		input.context.time,
	)
}

# METADATA
# title: Within
# description: >-
#   Whether the call is made in a window {days, from, to, offset}: `days` a set of English names,
#   `from` (included) and `to` (excluded) as "HH:MM", `offset` minutes east of UTC. A window whose
#   `to` is not after its `from` runs past midnight and belongs to the day on which it began.
#   False for a window that lacks a part or has one that cannot be read.
within(window) if {
	local := _local(window)
	minutes(window.from) < minutes(window.to)
	time.weekday(local) in window.days
	minutes(window.from) <= _minute(local)
	_minute(local) < minutes(window.to)
}

within(window) if {
	local := _local(window)
	minutes(window.from) >= minutes(window.to)
	time.weekday(local) in window.days
	minutes(window.from) <= _minute(local)
}

within(window) if {
	local := _local(window)
	minutes(window.from) >= minutes(window.to)
	time.weekday(local - (((24 * 60) * 60) * 1000000000)) in window.days
	_minute(local) < minutes(window.to)
}

_local(window) := now + ((window.offset * 60) * 1000000000) if is_number(window.offset)

_minute(instant) := (hour * 60) + minute if [hour, minute, _] := time.clock(instant)

# METADATA
# title: Minutes
# description: Minutes since midnight of "HH:MM", "24:00" included; undefined for anything else.
minutes(text) := ((_digit(text, 0) * 600) + (_digit(text, 1) * 60)) + ((_digit(text, 3) * 10) + _digit(text, 4)) if {
	regex.match(`^(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)$`, text)
}

_digit(text, place) := indexof("0123456789", substring(text, place, 1))

# METADATA
# title: Before
# description: Whether the call is made before an RFC 3339 instant; false when either cannot be read.
before(instant) if {
	regex.match(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z$`, instant)
	now < time.parse_rfc3339_ns(instant)
}
