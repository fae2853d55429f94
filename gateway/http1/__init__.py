"""The HTTP/1.1 client of the hot path: for OPA, MCP servers and whatever else may stream."""
