# METADATA
# title: Size of arguments
# description: >-
#   Asks for approval when a call has more arguments than the limit in data.json beside this file,
#   {"settings": {"limit": 20}}. Without that file it finds nothing: an example to copy.
# schemas:
#   - input: schema.input
package policies.all.argument_size

import rego.v2

# METADATA
# title: Too many arguments
# description: The call has more top-level arguments than the organisation allows unseen.
# labels:
#   policy: argument_size
findings contains {
	"action": "REQUIRE_APPROVAL",
	"policy_id": "argument_size",
	"reason": sprintf("%d arguments, more than %d", [found, limit]),
} if {
	limit := data.policies.all.argument_size.settings.limit
	found := count(input.arguments)
	found > limit
}

# METADATA
# title: Unreadable limit
# description: A limit that is no number limits nothing, so it is refused.
# labels:
#   policy: argument_size
findings contains {
	"action": "DENY",
	"policy_id": "argument_size",
	"reason": "settings.limit of argument_size is no number",
} if {
	limit := data.policies.all.argument_size.settings.limit
	not is_number(limit)
}
