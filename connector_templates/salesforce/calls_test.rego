package connectors_test.salesforce.calls

import rego.v2

# An input with just what these policies read.
call(name, arguments) := with_params(name, arguments, {})

with_params(name, arguments, params) := {"tool": {"name": name}, "arguments": arguments, "server": {"params": params}}
