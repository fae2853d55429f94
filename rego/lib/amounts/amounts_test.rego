package lib.amounts_test

import rego.v2

import data.lib.amounts

test_numbers_and_decimal_strings_are_amounts if {
	amounts.amount(12.5) == 12.5
	amounts.amount("12.50") == 12.5
	amounts.amount(0) == 0
	amounts.amount("0") == 0
}

test_nothing_else_is if {
	every value in ["", " 1", "-1", "+1", "1e3", "1,000", "€5", "1.", ".5", "0x10", "1234567890123456", -1, 1e15, null, true, [1], {}] {
		not amounts.amount(value)
		not amounts.within(value, 100)
		not amounts.within(1, value)
		not amounts.total([1, value])
	}
}

test_amounts_are_compared_by_value if {
	amounts.within("9", 1000)
	amounts.within("1000", "1000.00")
	not amounts.within("1000.01", 1000)
	not amounts.within(1001, "1000")
}

test_amounts_are_added if {
	amounts.total([1, "2.5", 0]) == 3.5
	amounts.total([]) == 0
	not amounts.total("1")
	not amounts.total(null)
}
