# METADATA
# title: Amounts
# description: >-
#   Sums of money and quantities, as numbers or decimal strings. Strings are compared by value:
#   "1000" is not less than "9".
package lib.amounts

import rego.v2

# METADATA
# title: Amount
# description: >-
#   The value of a non-negative number or decimal string ("12.50"). Undefined for everything else:
#   a sign, an exponent, a thousands separator, a currency, more than 15 digits before the point.
amount(value) := value if {
	is_number(value)
	value >= 0
	value < 1000000000000000
}

amount(value) := to_number(value) if {
	is_string(value)
	regex.match(`^[0-9]{1,15}(?:\.[0-9]{1,9})?$`, value)
}

# METADATA
# title: Within
# description: >-
#   Whether a value is an amount of at most `cap`. False when either is no amount, so that
#   `not amounts.within(…)` refuses what cannot be read.
within(value, cap) if amount(value) <= amount(cap)

# METADATA
# title: Total
# description: The sum of a list of amounts; undefined when it is no list or one of them is no amount.
total(values) := sum([amount(value) | some value in values]) if {
	is_array(values)
	every value in values {
		amount(value) >= 0
	}
}
