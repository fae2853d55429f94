package gateway

import rego.v2

# METADATA
# title: Method
# description: The decision about a message that is no tool call; see data.gateway.methods.
# entrypoint: true
method := data.gateway.methods.decision
