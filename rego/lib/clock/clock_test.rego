package lib.clock_test

import rego.v2

import data.lib.clock

week := {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday"}

office := {"days": week, "from": "08:00", "to": "18:00", "offset": 60}

night := {"days": {"Friday"}, "from": "22:00", "to": "06:00", "offset": 0}

within(window, time) if clock.within(window) with input.context.time as time

test_office_hours_are_counted_in_their_own_zone if {
	within(office, "2026-11-20T07:00:00Z")
	within(office, "2026-11-20T16:59:59.999Z")
	within(office, "2026-11-20T08:00:00+01:00")
	not within(office, "2026-11-20T06:59:59Z")
	not within(office, "2026-11-20T17:00:00Z")
	not within(office, "2026-11-21T12:00:00Z")
}

test_a_night_belongs_to_the_day_on_which_it_began if {
	within(night, "2026-11-20T22:00:00Z")
	within(night, "2026-11-21T05:59:00Z")
	not within(night, "2026-11-20T05:59:00Z")
	not within(night, "2026-11-21T22:00:00Z")
	not within(night, "2026-11-20T12:00:00Z")
	not within(night, "2026-11-21T06:00:00Z")
}

test_a_whole_day_is_a_window if {
	day := {"days": {"Friday"}, "from": "00:00", "to": "24:00", "offset": 0}
	within(day, "2026-11-20T00:00:00Z")
	within(day, "2026-11-20T23:59:59Z")
	not within(day, "2026-11-21T00:00:00Z")
}

test_a_window_that_cannot_be_read_is_never_open if {
	every broken in [
		{}, null, "08:00", object.remove(office, ["days"]), object.remove(office, ["offset"]),
		object.union(office, {"from": "8:00"}), object.union(office, {"to": "25:00"}), object.union(office, {"from": 8}),
		object.union(office, {"offset": "60"}),
	] {
		not within(broken, "2026-11-20T12:00:00Z")
	}
}

test_a_time_that_cannot_be_read_is_in_no_window if {
	every time in ["", "now", "2026-11-20", "2026-13-20T12:00:00Z", "2026-11-20 12:00:00Z", 5, null] {
		not within(office, time)
		not clock.now with input.context.time as time
		not clock.before("2999-01-01T00:00:00Z") with input.context.time as time
	}
	not clock.now with input as {}
}

test_instants_are_compared if {
	clock.before("2026-11-20T12:00:01Z") with input.context.time as "2026-11-20T12:00:00Z"
	not clock.before("2026-11-20T12:00:00Z") with input.context.time as "2026-11-20T12:00:00Z"
	every instant in ["", "tomorrow", 5, null, "2027-01-01"] {
		not clock.before(instant) with input.context.time as "2026-11-20T12:00:00Z"
	}
}
