"""The demonstration: a small CRM as an MCP server, and a gateway set up in front of it."""
