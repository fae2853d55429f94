package gateway

import rego.v2

# METADATA
# title: Response
# description: What the organisation asks of one message of a server's, see data.gateway.responses.
# entrypoint: true
response := data.gateway.responses.answer
